//! Socket addresses as the system represents them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// An address of either family, in 28 bytes instead of the 128 of `sockaddr_storage`, as a batch holds many.
#[derive(Clone, Copy)]
#[repr(C)]
pub union SockAddr {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl SockAddr {
    pub const SIZE: libc::socklen_t = size_of::<SockAddr>() as libc::socklen_t;

    pub fn zeroed() -> SockAddr {
        // SAFETY: both are C structs of integers, for which zeros are valid.
        unsafe { std::mem::zeroed() }
    }

    pub fn new(address: SocketAddr) -> (SockAddr, libc::socklen_t) {
        let mut raw = SockAddr::zeroed();
        // Field by field: the structs of the BSDs have a length as well, which their kernels set.
        let size = match address {
            SocketAddr::V4(address) => {
                // SAFETY: all of the union is initialised, and any bytes are a valid `sockaddr_in`.
                let v4 = unsafe { &mut raw.v4 };
                v4.sin_family = libc::AF_INET as libc::sa_family_t;
                v4.sin_port = address.port().to_be();
                v4.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(address) => {
                // SAFETY: likewise.
                let v6 = unsafe { &mut raw.v6 };
                v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                v6.sin6_port = address.port().to_be();
                v6.sin6_addr.s6_addr = address.ip().octets();
                v6.sin6_flowinfo = address.flowinfo();
                v6.sin6_scope_id = address.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (raw, size as libc::socklen_t)
    }

    /// The address and its port, if it is of either family. Only link-local addresses have a scope.
    pub fn get(&self) -> Option<SocketAddr> {
        // SAFETY: every field of both structs is an integer, valid with any bytes, and all bytes are initialised.
        let (v4, v6) = unsafe { (&self.v4, &self.v6) };
        // The family is at the same offset in both.
        match libc::c_int::from(v4.sin_family) {
            libc::AF_INET => {
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)))
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    pub fn ip(&self) -> Option<IpAddr> {
        self.get().map(|address| address.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["192.0.2.1:6969", "[2001:db8::7]:80", "0.0.0.0:0", "[::]:1"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(SockAddr::new(address).0.ip(), Some(address.ip()));
            assert_eq!(SockAddr::new(address).0.get(), Some(address));
        }
        assert_eq!(SockAddr::zeroed().ip(), None);
        assert_eq!(SockAddr::zeroed().get(), None);
    }
}
