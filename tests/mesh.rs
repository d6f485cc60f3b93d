//! Nodes of a cluster, each on a host of its own.

#![cfg(target_os = "linux")]

mod common;

use common::net::{self, Faults, Host};
use common::wait_for;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Sends datagrams that carry their number to another host; the numbers that arrive.
fn numbers(from: &Host, to: &Host, is_v6: bool, count: u32) -> Vec<u32> {
    let address = |host: &Host| SocketAddr::new(if is_v6 { host.v6() } else { host.v4() }, 7);
    let receiver = to.within(|| UdpSocket::bind(address(to)).expect("a port"));
    let wait = Some(Duration::from_secs(1));
    receiver.set_read_timeout(wait).expect("a timeout");
    let sender = from.within(|| UdpSocket::bind(address(from)).expect("a port"));
    for number in 0..count {
        let sent = sender.send_to(&number.to_be_bytes(), address(to));
        assert_eq!(sent.expect("is sent"), 4);
    }
    let mut buffer = [0; 4];
    let mut come = Vec::new();
    while let Ok((_, source)) = receiver.recv_from(&mut buffer) {
        assert_eq!(source, address(from));
        come.push(u32::from_be_bytes(buffer));
    }
    come
}

#[test]
fn the_network_is_as_bad_as_wanted() {
    net::in_sandbox("the_network_is_as_bad_as_wanted", |lan| {
        let [one, two] = [lan.host(), lan.host()];
        let all: Vec<u32> = (0..200).collect();
        wait_for("the network", || {
            (numbers(&one, &two, false, 1) == [0]).then_some(())
        });
        assert_eq!(numbers(&one, &two, false, 200), all);
        assert_eq!(numbers(&one, &two, true, 200), all);
        one.unplug();
        assert_eq!(numbers(&one, &two, false, 200), []);
        one.plug();
        assert_eq!(numbers(&one, &two, true, 200), all);

        one.set_faults(Faults {
            loss: 50,
            ..Faults::default()
        });
        let come = numbers(&one, &two, false, 200);
        assert!((50..150).contains(&come.len()), "{come:?}");
        assert!(come.is_sorted(), "{come:?}");
        one.set_faults(Faults {
            loss: 0,
            delay: 20,
            overtaking: 50,
        });
        let mut come = numbers(&one, &two, true, 200);
        assert!(!come.is_sorted(), "{come:?}");
        come.sort_unstable();
        assert_eq!(come, all);
        one.set_faults(Faults::default());
        assert_eq!(numbers(&one, &two, false, 200), all);
        assert_eq!(numbers(&two, &one, true, 200), all);
    });
}
