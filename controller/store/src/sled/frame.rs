//! How a value lies on disk: version, revision, checksum, bytes.

use crate::{Revision, StoreError, Versioned};

/// The layout that is written: 1 byte version, 8 bytes revision and 4 bytes CRC-32 of key,
/// revision and value (big endian), then the value.
const VERSION: u8 = 1;
const HEADER: usize = 1 + 8 + 4;

fn checksum(key: &[u8], revision: Revision, value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(&revision.to_be_bytes());
    crc.update(value);
    crc.finalize()
}

/// Frames a value. The key is under the checksum, so that a value under a wrong key shows.
pub(super) fn encode(key: &[u8], revision: Revision, value: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(HEADER + value.len());
    framed.push(VERSION);
    framed.extend_from_slice(&revision.to_be_bytes());
    framed.extend_from_slice(&checksum(key, revision, value).to_be_bytes());
    framed.extend_from_slice(value);
    framed
}

/// Reads a frame back.
pub(super) fn decode(key: &[u8], framed: &[u8]) -> Result<Versioned, StoreError> {
    let corrupt = |why| StoreError::Corrupt {
        key: String::from_utf8_lossy(key).into_owned(),
        why,
    };
    let (version, rest) = framed.split_first().ok_or_else(|| corrupt("it is empty"))?;
    if *version != VERSION {
        return Err(corrupt("its version is unknown"));
    }
    let short = || corrupt("it is cut short");
    let (revision, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (crc, value) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let revision = Revision::from_be_bytes(*revision);
    if checksum(key, revision, value) != u32::from_be_bytes(*crc) {
        return Err(corrupt("its checksum is wrong"));
    }
    Ok(Versioned {
        revision,
        value: value.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let framed = encode(b"doc/site/a", 7, b"some value");
        assert_eq!(
            decode(b"doc/site/a", &framed).unwrap(),
            Versioned {
                revision: 7,
                value: b"some value".to_vec()
            }
        );
        for at in 0..framed.len() * 8 {
            let mut damaged = framed.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            let error = decode(b"doc/site/a", &damaged).unwrap_err();
            assert!(error.to_string().contains("doc/site/a"), "{error}");
        }
        assert!(decode(b"doc/site/b", &framed).is_err());
        for end in 0..framed.len() {
            assert!(decode(b"doc/site/a", &framed[..end]).is_err());
        }
    }
}
