//! Header lines in which proxies name their clients.

use announced::base::nets::{self, Net};
use announced::http::{Proxies, request};
use std::net::{IpAddr, Ipv4Addr};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));

/// The lines that a proxy of ours writes behind those of a client, and the header that it is configured with.
const WRITTEN: [(&str, &str); 6] = [
    ("X-Forwarded-For: 192.0.2.77", ""),
    ("X-Forwarded-For: 192.0.2.77, 10.0.0.9", ""),
    ("Forwarded: for=192.0.2.77;proto=https", ""),
    ("Forwarded: for=\"192.0.2.77:4711\", for=10.0.0.9", ""),
    ("X-Real-IP: 192.0.2.77", "X-Real-IP"),
    ("Forwarded: for=192.0.2.77", "Forwarded"),
];

fn proxies(header: &str) -> Proxies {
    let nets = ["10.0.0.0/8", "2001:db8:ffff::/48"];
    Proxies {
        nets: nets.map(|net| Net::parse(net).expect(net)).to_vec(),
        header: header.into(),
        protocol: false,
    }
}

pub fn run(data: &[u8]) {
    let head = [b"GET / HTTP/1.1\r\n", data, b"\r\n\r\n"].concat();
    let Ok(request) = request::parse(&head) else {
        return;
    };
    let lines = request.lines;
    for header in ["", "X-Real-IP", "Forwarded"] {
        let proxies = proxies(header);
        let client = proxies.client(proxies.origin(Some(PROXY)), lines);
        if let Some(address) = client.address() {
            assert!(!nets::any_contains(&proxies.nets, address), "{address}");
            assert_eq!(address, address.to_canonical());
            assert!(proxies.is_forwarded(lines));
        }
        // Lines of a client of its own are not believed.
        let own = proxies.client(proxies.origin(Some(CLIENT)), lines);
        assert_eq!(own.address(), Some(CLIENT));
    }
    // Whatever a client writes, the proxy's own line behind it decides, or nothing does.
    let written = lines.strip_suffix(b"\r\n").or(lines.strip_suffix(b"\n"));
    let written = written.unwrap_or_default();
    let mut names = request::fields(written).map(|(name, _)| name.to_ascii_lowercase());
    let has_both = names.any(|name| name == b"forwarded" || name == b"x-forwarded-for");
    for (line, header) in WRITTEN {
        let proxies = proxies(header);
        let lines = [written, line.as_bytes(), b"\r\n\r\n"].concat();
        let client = proxies.client(proxies.origin(Some(PROXY)), &lines);
        match client.address() {
            Some(address) => assert_eq!(address, CLIENT, "{line}"),
            // The two standard headers contradict each other.
            None => assert!(has_both && header.is_empty(), "{line}"),
        }
    }
}
