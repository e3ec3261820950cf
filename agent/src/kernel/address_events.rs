//! Changes of the machine's interfaces and addresses, as the kernel announces them.

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR` of linux/rtnetlink.h.
const GROUPS: [u32; 3] = [1, 5, 9];
const BUFFER: usize = 64 << 10;

/// The kernel announces nothing.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not announce changes of addresses")]
pub struct AddressEventsError(#[from] std::io::Error);

/// Announcements of the network namespace in which this was opened.
pub struct AddressEvents {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl AddressEvents {
    /// Listens. Needs a running tokio runtime.
    pub fn open() -> Result<Self, AddressEventsError> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let plain = socket.socket_mut();
        plain.bind_auto()?;
        for group in GROUPS {
            plain.add_membership(group)?;
        }
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// Returns when some interface or address may have changed: what it is now is read by who
    /// asks. Safe to drop while it waits.
    pub async fn next(&mut self) -> Result<(), AddressEventsError> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                Ok(from) if from.port_number() == 0 => return Ok(()),
                Ok(_) => {} // not the kernel
                // Announcements were lost: anything may have changed.
                Err(error) if error.raw_os_error() == Some(nix::Error::ENOBUFS as i32) => {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
