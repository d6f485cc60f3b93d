//! Socket addresses in the shape that the system takes and gives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Room for an address of either family; 28 bytes, not the 128 of `sockaddr_storage`, since a batch
/// holds many.
#[derive(Clone, Copy)]
#[repr(C)]
pub union SockAddr {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl SockAddr {
    pub const SIZE: libc::socklen_t = size_of::<SockAddr>() as libc::socklen_t;

    pub fn zeroed() -> SockAddr {
        // SAFETY: both are plain C structs of integers, for which all zeros are valid.
        unsafe { std::mem::zeroed() }
    }

    pub fn new(address: SocketAddr) -> (SockAddr, libc::socklen_t) {
        let mut raw = SockAddr::zeroed();
        // Field by field: the BSDs' structs have a length as well, which their kernels set.
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

    /// The address with its port, if it is of either family. A scope is told of link-local addresses
    /// alone.
    pub fn get(&self) -> Option<SocketAddr> {
        // SAFETY: as below.
        let (v4_port, v6_port, scope) = unsafe {
            let v6 = &self.v6;
            (self.v4.sin_port, v6.sin6_port, v6.sin6_scope_id)
        };
        Some(match self.ip()? {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), u16::from_be(v4_port)),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, u16::from_be(v6_port), 0, scope).into(),
        })
    }

    /// The address, if it is of either family.
    pub fn ip(&self) -> Option<IpAddr> {
        // SAFETY: every field of both structs is an integer, valid whatever was written; the family
        // is at the same place in both.
        let (family, v4, v6) = unsafe { (self.v4.sin_family, self.v4.sin_addr, self.v6.sin6_addr) };
        match libc::c_int::from(family) {
            libc::AF_INET => Some(Ipv4Addr::from(v4.s_addr.to_ne_bytes()).into()),
            libc::AF_INET6 => Some(Ipv6Addr::from(v6.s6_addr).into()),
            _ => None,
        }
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
