//! The PROXY header in front of a connection.

use super::cuts;
use announced::base::nets::Net;
use announced::http::Proxies;
use announced::http::request::Invalid;
use std::net::IpAddr;

/// What the header at the front of these bytes says: how many bytes it takes, the client of the requests behind it.
fn taken(proxies: &Proxies, data: &[u8]) -> Result<(usize, Option<IpAddr>), Invalid> {
    let mut origin = proxies.origin(None);
    let before = origin;
    let mut input = data;
    let result = proxies.skip_header(&mut origin, &mut input);
    if let Err(why) = result {
        assert!(origin == before && input == data, "nothing is taken");
        return Err(why);
    }
    assert_ne!(origin, before);
    let client = proxies.client(origin, b"X-Forwarded-For: 10.0.0.9\r\n");
    Ok((data.len() - input.len(), client.address()))
}

pub fn run(data: &[u8]) {
    let proxies = Proxies {
        nets: vec![Net::parse("10.0.0.0/8").expect("a network")],
        header: String::new(),
        protocol: true,
    };
    let whole = taken(&proxies, data);
    if let Ok((length, client)) = whole {
        assert!((8..=data.len().min(8 * 1024)).contains(&length));
        assert!(client.is_none_or(|client| client == client.to_canonical()));
    }
    for cut in cuts(data.len()) {
        let part = taken(&proxies, &data[..cut]);
        match (&whole, &part) {
            (Ok((length, _)), part) if cut >= *length => assert_eq!(*part, whole, "{cut} bytes"),
            (Ok(_) | Err(Invalid::Incomplete), part) => {
                assert_eq!(part, &Err(Invalid::Incomplete), "{cut} bytes");
            }
            (Err(why), Err(Invalid::Incomplete)) => assert_ne!(*why, Invalid::Incomplete),
            (Err(_), part) => assert_eq!(*part, whole, "{cut} bytes"),
        }
    }
    if let Some(address) = data.first_chunk::<4>() {
        let address = IpAddr::from(*address);
        check_written(&proxies, address, data);
    }
    if let Some(address) = data.first_chunk::<16>() {
        check_written(&proxies, IpAddr::from(*address), data);
    }
}

/// A header of either version with this source is read as such, and nothing of what follows it.
fn check_written(proxies: &Proxies, source: IpAddr, rest: &[u8]) {
    let (family, code, octets) = match source {
        IpAddr::V4(ip) => ("TCP4", 0x11, ip.octets().to_vec()),
        IpAddr::V6(ip) => ("TCP6", 0x21, ip.octets().to_vec()),
    };
    let text = format!("PROXY {family} {source} {source} 1 65535\r\n").into_bytes();
    let length = u8::try_from(2 * octets.len() + 4).expect("is small");
    let head = [b"\r\n\r\n\0\r\nQUIT\n\x21", &[code, 0, length][..]].concat();
    let binary = [&head[..], &octets, &octets, &[0; 4]].concat();
    let source = source.to_canonical();
    // Another proxy of ours, which names itself in the header line that the requests have here.
    let is_proxy = proxies.nets[0].contains(source);
    for header in [text, binary] {
        let length = header.len();
        let read = taken(proxies, &[&header, rest].concat());
        let expected = Some(source).filter(|_| !is_proxy);
        assert_eq!(read, Ok((length, expected)));
    }
}
