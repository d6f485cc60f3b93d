use super::*;
use crate::sync::link::Counters;

fn node(address: &str, id: u64, is_up: bool, agrees: Option<bool>) -> Report {
    Report {
        address: address.parse().expect("an address"),
        id,
        is_up,
        is_own: false,
        counters: Counters::default(),
        lag: 0,
        clock_offset: None,
        agrees,
    }
}

/// Three nodes: one well, one with other peers that has sent what was dropped, one down.
fn mixed() -> Overview {
    let mut well = node("192.0.2.1:6970", 0x9c01_e7b2_d844_0001, true, Some(true));
    (well.lag, well.clock_offset) = (812, Some(-3));
    well.counters.records_in = 1_234_567;
    well.counters.bytes_in = 20 << 20;
    well.counters.packets_in = 17;
    let longest = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    let mut other = node(longest, 7, true, Some(false));
    (other.lag, other.clock_offset) = (12_345, Some(7_200_000));
    other.counters.repairs_in = 99;
    other.counters.rejections[Rejection::Forged as usize] = 3;
    other.counters.rejections[Rejection::Shed as usize] = 1;
    let mut overview = Overview {
        id: 0x0123_4567_89ab_cdef,
        ahead: 1500,
        pending: 12,
        is_counted: true,
        ..Overview::default()
    };
    let down = node("192.0.2.3:6970", 0, false, None);
    overview.nodes = vec![well, other, down];
    overview.rejections[Rejection::Version as usize] = 4;
    overview
}

fn written(write: fn(&Overview, &mut Vec<u8>), overview: &Overview) -> String {
    let mut out = Vec::new();
    write(overview, &mut out);
    String::from_utf8(out).expect("is text")
}

#[test]
fn the_table_is_for_people() {
    let expected = "\
cluster incomplete: 1 of 3 nodes down
this node is 0123456789abcdef, its clock -1.5 s against the cluster's
changes waiting to be told 12, left to repair 0

#  node                                            id                state  tables     lag       clock
1  192.0.2.1:6970                                  9c01e7b2d8440001  up     agree   812 ms       -3 ms
2  [2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535  0000000000000007  up     differ  12.3 s  +2 h 0 min
3  192.0.2.3:6970                                  -                 down   -            -           -

#  records in  out  bytes in  out  repaired in  out  gaps  resent  lost
1       1.23M    0    20 MiB  0 B            0    0     0       0     0
2           0    0       0 B  0 B           99    0     0       0     0
3           0    0       0 B  0 B            0    0     0       0     0

dropped of [2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535: forged 3, shed 1
dropped of others: version 4
";
    let text = written(write, &mixed());
    assert_eq!(text, expected);
    assert!(text.lines().all(|line| line.len() <= 120));
}

#[test]
fn the_worst_is_told_first() {
    let up = |id, agrees| node("192.0.2.1:1", id, true, agrees);
    let down = node("192.0.2.2:1", 2, false, None);
    let (well, other, new) = (up(3, Some(true)), up(4, Some(false)), up(5, None));
    for (nodes, verdict) in [
        (&[][..], "cluster ok: no other node has been heard"),
        (&[well], "cluster ok: 1 of 1 node up and agreeing"),
        (
            &[well, new],
            "cluster starting: 1 of 2 nodes not compared yet",
        ),
        (
            &[new, other, well],
            "cluster differs: 1 of 3 nodes with other peers",
        ),
        (&[other, down, new], "cluster incomplete: 1 of 3 nodes down"),
    ] {
        let overview = Overview {
            nodes: nodes.to_vec(),
            ..Overview::default()
        };
        assert_eq!(written(write_verdict, &overview), verdict);
        let is_well = verdict.starts_with(WELL);
        assert_eq!(is_well, nodes.iter().all(|n| n.agrees == Some(true)));
    }
    let multicast = Overview {
        multicast: Some(Multicast::default()),
        ..Overview::default()
    };
    assert!(written(write_verdict, &multicast).starts_with(WELL));
}

#[test]
fn a_node_without_a_whole_table_says_so() {
    let overview = Overview {
        is_joining: true,
        ..mixed()
    };
    let verdict = written(write_verdict, &overview);
    assert_eq!(
        verdict,
        "cluster starting: this node has no whole table yet"
    );
}

#[test]
fn a_node_that_is_listed_itself_is_not_missed() {
    let mut own = node("192.0.2.1:6970", 0, false, None);
    own.is_own = true;
    let overview = Overview {
        nodes: vec![own],
        ..Overview::default()
    };
    let text = written(write, &overview);
    assert!(text.starts_with("cluster ok: no other node has been heard\n"));
    assert!(text.contains("\n1  192.0.2.1:6970  -   self "), "{text}");
    let text = written(
        |overview, out| write_metrics(Some(overview), out),
        &overview,
    );
    assert!(!text.contains("192.0.2.1"), "{text}");
}

#[test]
fn a_name_without_address_is_a_node_that_is_down() {
    let overview = Overview {
        unresolved: vec!["b.example:6970".into()],
        ..Overview::default()
    };
    let text = written(write, &overview);
    assert!(text.starts_with("cluster incomplete: 1 of 1 node down\n"));
    assert!(text.ends_with("\nno address is known of b.example:6970\n"));
    let metrics =
        |overview: &Overview| written(|overview, out| write_metrics(Some(overview), out), overview);
    let line = "\nannounced_sync_up{node=\"b.example:6970\",id=\"0000000000000000\"} 0\n";
    assert!(metrics(&overview).contains(line));
    let mut hidden = overview;
    hidden.hide_nodes();
    assert!(!metrics(&hidden).contains("b.example"));
}

#[test]
fn multicast_is_told_below() {
    let overview = Overview {
        multicast: Some(Multicast {
            packets_in: 2,
            records_in: 100,
            packets_out: 1,
            records_out: 52,
            ignored: [3, 0, 1, 0],
        }),
        ..Overview::default()
    };
    let text = written(write, &overview);
    let (_, last) = text.split_once("\n\n").expect("an empty line");
    assert_eq!(
        last,
        "multicast: records in 100, in packets 2; records out 52, in packets 1\n\
         dropped of multicast: own 3, malformed 1\n"
    );
}

#[test]
fn a_family_has_samples_and_each_its_labels() {
    let mut overview = mixed();
    overview.multicast = Some(Multicast::default());
    let text = written(
        |overview, out| write_metrics(Some(overview), out),
        &overview,
    );
    let well = "{node=\"192.0.2.1:6970\",id=\"9c01e7b2d8440001\"}";
    for line in [
        format!("announced_sync_up{well} 1"),
        format!("announced_sync_agrees{well} 1"),
        format!("announced_sync_lag_seconds{well} 0.812"),
        format!("announced_sync_clock_offset_seconds{well} -0.003"),
        format!("announced_sync_received_records_total{well} 1234567"),
        "announced_cluster_time_offset_seconds 1.500".into(),
        "announced_sync_up{node=\"192.0.2.3:6970\",id=\"0000000000000000\"} 0".into(),
        "announced_sync_rejected_packets_total{node=\"others\",reason=\"version\"} 4".into(),
        "announced_multicast_ignored_packets_total{reason=\"own\"} 0".into(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    assert_eq!(text.matches("\nannounced_sync_agrees{").count(), 2);
    assert_eq!(text.matches("\nannounced_sync_lag_seconds").count(), 2);
    let help = text.matches("# HELP ").count();
    assert_eq!(help, OWN.len() + NODES.len() + MULTICAST.len() + 3);
    // Nobody else is told where nodes are.
    overview.hide_nodes();
    let text = written(
        |overview, out| write_metrics(Some(overview), out),
        &overview,
    );
    assert!(!text.contains("192.0.2") && text.contains("sync_pending_changes 12\n"));
    let text = written(|_, out| write_metrics(None, out), &overview);
    assert_eq!(text.matches("# HELP ").count(), 1);
    assert!(text.ends_with("announced_sync_lag_seconds 0\n"), "{text}");
}
