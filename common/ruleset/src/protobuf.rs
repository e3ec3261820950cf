//! Protobuf's wire format, field by field: for long lists that are written without a message for
//! each entry, and for bounds that are checked before messages are made.
//!
//! The only user of `prost::encoding`, which prost does not promise to keep: the tests below fail
//! if an update changes it.

use prost::bytes::Buf as _;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};

/// A field of an encoded message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'b> {
    /// Its number.
    pub tag: u32,
    /// Its bytes, text or message; `None` for a number.
    pub content: Option<&'b [u8]>,
}

/// Takes the next field off `bytes`; `None` at the end, and where they are no protobuf.
pub fn next_field<'b>(bytes: &mut &'b [u8]) -> Option<Field<'b>> {
    if bytes.is_empty() {
        return None;
    }
    let (tag, wire) = decode_key(bytes).ok()?;
    if wire != WireType::LengthDelimited {
        skip_field(wire, tag, bytes, DecodeContext::default()).ok()?;
        return Some(Field { tag, content: None });
    }
    let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
    let content = bytes.get(..length)?;
    bytes.advance(length);
    Some(Field {
        tag,
        content: Some(content),
    })
}

/// Writes a field of bytes, text or a message.
pub fn put_bytes(tag: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// Writes a number; 0 is left out, as readers take an absent number for 0.
pub fn put_number(tag: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use voipfleet_proto::v1 as pb;

    use super::*;

    #[test]
    fn fields_are_written_and_read_as_prost_does() {
        let net = pb::Network {
            address: vec![192, 0, 2, 1],
            prefix_length: 300,
        };
        let mut written = Vec::new();
        put_bytes(1, &net.address, &mut written);
        put_number(2, net.prefix_length.into(), &mut written);
        assert_eq!(written, net.encode_to_vec());
        let mut rest = written.as_slice();
        let address = Field {
            tag: 1,
            content: Some(&[192, 0, 2, 1]),
        };
        assert_eq!(next_field(&mut rest), Some(address));
        let length = Field {
            tag: 2,
            content: None,
        };
        assert_eq!(next_field(&mut rest), Some(length));
        assert_eq!(next_field(&mut rest), None);
        let mut empty = Vec::new();
        put_number(2, 0, &mut empty);
        assert_eq!(empty, pb::Network::default().encode_to_vec());
        for broken in [&[0x0a, 5, 1][..], &[0x0a], &[0xff; 20], &[0x0f, 1]] {
            assert_eq!(next_field(&mut { broken }), None, "{broken:?}");
        }
    }

    /// `prost::encoding` is outside of prost's promises: an update of prost takes a review of this module.
    #[test]
    fn prost_is_the_version_that_this_was_written_for() {
        let lock = include_str!("../../../Cargo.lock");
        let prost = lock
            .split("[[package]]")
            .find(|package| package.lines().any(|line| line == "name = \"prost\""));
        let version = prost.and_then(|package| package.lines().find(|l| l.starts_with("version")));
        assert!(
            version.is_some_and(|version| version.starts_with("version = \"0.14.")),
            "{version:?}"
        );
    }
}
