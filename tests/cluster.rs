//! Nodes of a cluster on the loopback: what one is told, the others know.

mod common;

use common::udp::{Announce, Client, TRANSACTION};
use common::{Daemon, Directory, free_address, run, uninterrupted, wait_for, wait_longer};
use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// What repair brings, it brings within this.
const REPAIRED: Duration = Duration::from_secs(60);

const HASH: [u8; 20] = [0xaa; 20];
const OTHER: [u8; 20] = [0xbb; 20];

/// A key, with the directory that it is in.
fn key(name: &str) -> (Directory, String) {
    let directory = Directory::new(&format!("cluster-{name}"));
    let key = directory.file("key");
    assert_eq!(
        run(&["--make-key", &key]),
        (Some(0), String::new(), String::new())
    );
    (directory, key)
}

/// A node that listens on this address and knows these others.
fn node(listen: &str, key: &str, peers: &[SocketAddr], flags: &[&str]) -> Daemon {
    let peers: Vec<String> = peers.iter().map(SocketAddr::to_string).collect();
    let mut all = vec!["--cluster-listen", listen, "--cluster-key", key];
    for peer in &peers {
        all.extend(["--cluster-peer", peer]);
    }
    all.extend(flags);
    Daemon::start(&all)
}

const V4: &str = "127.0.0.1:0";

fn announce(to: &Daemon, announce: &Announce) {
    Client::new(to.udp4()).announce(announce);
}

fn leecher(info_hash: [u8; 20], port: u16) -> Announce {
    Announce {
        info_hash,
        port,
        ..Announce::default()
    }
}

/// Seeders, completed, leechers.
fn counts(of: &Daemon, hash: [u8; 20]) -> [u32; 3] {
    Client::new(of.udp4()).scrape(&[hash])[0]
}

fn wait_for_counts(of: &Daemon, hash: [u8; 20], expected: [u32; 3]) {
    let mut last = [0; 3];
    wait_longer("the node to know", REPAIRED, || {
        last = counts(of, hash);
        (last == expected).then_some(())
    });
}

#[test]
fn what_one_node_is_told_the_other_knows() {
    let (_directory, key) = key("two");
    for listen in [V4, "[::1]:0"] {
        let a = node(listen, &key, &[], &[]);
        let b = node(listen, &key, &[a.cluster()], &[]);
        a.wait_for_line(" is up");
        b.wait_for_line(&format!("cluster: {} is up", a.cluster()));

        let peer = leecher(HASH, 1111);
        announce(&a, &peer);
        Client::new(a.udp6()).announce(&leecher(HASH, 1116));
        wait_for_counts(&b, HASH, [0, 0, 2]);
        let seen = |client: Client| client.announce(&leecher(HASH, 2222)).peers;
        assert_eq!(
            seen(Client::new(b.udp4())),
            ["127.0.0.1:1111".parse().expect("an address")]
        );
        assert_eq!(
            seen(Client::new(b.udp6())),
            ["[::1]:1116".parse().expect("an address")]
        );
        wait_for_counts(&a, HASH, [0, 0, 4]);

        let completed = Announce {
            left: 0,
            event: 1,
            ..peer.clone()
        };
        announce(&a, &completed);
        wait_for_counts(&b, HASH, [1, 1, 3]);
        announce(
            &b,
            &Announce {
                left: 0,
                event: 3,
                ..peer
            },
        );
        wait_for_counts(&a, HASH, [0, 1, 3]);
    }
}

#[test]
fn what_is_told_last_is_not_lost() {
    let (_directory, key) = key("last");
    let mut a = node(V4, &key, &[], &[]);
    let b = node(V4, &key, &[a.cluster()], &[]);
    a.wait_for_line(" is up");
    b.wait_for_line(" is up");
    announce(&a, &leecher(HASH, 1));
    a.signal("TERM");
    assert!(a.wait().0.success());
    wait_for_counts(&b, HASH, [0, 0, 1]);
    b.wait_for_line("has fallen silent");
}

#[test]
fn three_nodes_and_one_that_restarts() {
    let (_directory, key) = key("three");
    let address = free_address().to_string();
    let a = node(V4, &key, &[], &[]);
    let mut b = node(&address, &key, &[a.cluster()], &[]);
    let c = node(V4, &key, &[a.cluster(), b.cluster()], &[]);
    wait_for("all to know each other", || {
        let all = [&a, &b, &c];
        all.iter()
            .all(|node| node.count_lines(" is up") == 2)
            .then_some(())
    });
    announce(&b, &leecher(HASH, 1));
    for node in [&a, &c] {
        wait_for_counts(node, HASH, [0, 0, 1]);
    }
    b.signal("KILL");
    b.wait();
    announce(&c, &leecher(OTHER, 2));
    wait_for_counts(&a, OTHER, [0, 0, 1]);

    let b = node(&address, &key, &[a.cluster()], &[]);
    for hash in [HASH, OTHER] {
        wait_for_counts(&b, hash, [0, 0, 1]);
    }
    announce(&b, &leecher(HASH, 3));
    for node in [&a, &c] {
        wait_for_counts(node, HASH, [0, 0, 2]);
    }
}

#[test]
fn who_has_another_key_is_told_nothing() {
    let (directory, good) = key("wrong");
    let bad = directory.file("bad");
    assert_eq!(run(&["--make-key", &bad]).0, Some(0));
    let a = node(V4, &good, &[], &[]);
    let b = node(V4, &bad, &[a.cluster()], &[]);
    let c = node(V4, &good, &[a.cluster()], &[]);
    a.wait_for_line(" rejected as forged: made without the key in --cluster-key");
    c.wait_for_line(" is up");
    a.wait_for_line(" is up");
    announce(&a, &leecher(HASH, 1));
    wait_for_counts(&c, HASH, [0, 0, 1]);
    assert_eq!(counts(&b, HASH), [0; 3]);
    assert_eq!((a.count_lines("rejected"), a.count_lines(" is up")), (1, 1));
    assert_eq!(b.count_lines(" is up"), 0);

    // What one gives, the other does not take.
    let mut client = Client::new(a.udp4());
    let request = client.announce_request(&leecher(HASH, 1));
    client = Client::from("127.0.0.1", b.udp4());
    assert!(client.exchange(&request).ends_with(b"Connect again."));
}

#[test]
fn who_forgets_sooner_or_later_is_refused_by_name() {
    let (_directory, key) = key("timeout");
    let a = node(V4, &key, &[], &[]);
    let b = node(V4, &key, &[a.cluster()], &["--peer-timeout", "3000"]);
    let line = a.wait_for_line("is refused");
    assert!(
        line.ends_with(&format!(
            "{} is refused: its --peer-timeout is 3000, not 2700",
            b.cluster()
        )),
        "{line}"
    );
    let line = b.wait_for_line("is refused");
    assert!(
        line.ends_with(&format!(
            "{} is refused: its --peer-timeout is 2700, not 3000",
            a.cluster()
        )),
        "{line}"
    );
}

#[test]
fn a_client_may_connect_at_one_node_and_announce_at_another() {
    let (_directory, key) = key("ids");
    let a = node(V4, &key, &[], &[]);
    let b = node(V4, &key, &[a.cluster()], &[]);
    for (one, other) in [(a.udp4(), b.udp4()), (b.udp6(), a.udp6())] {
        let source = if one.is_ipv6() { "::1" } else { "127.0.0.1" };
        let socket = UdpSocket::bind((source, 0)).expect("a port");
        socket
            .set_read_timeout(Some(common::DEADLINE))
            .expect("a timeout");
        let mut buffer = [0; 4096];
        let mut exchange = |to: SocketAddr, request: &[u8]| {
            socket.send_to(request, to).expect("is sent");
            let received = uninterrupted(|| socket.recv_from(&mut buffer));
            let (length, from) = received.expect("a reply");
            assert_eq!(from, to);
            buffer[..length].to_vec()
        };
        let reply = exchange(one, &common::udp::connect_request());
        let mut client = Client::from(source, other);
        client.connection = u64::from_be_bytes(reply[8..].try_into().expect("8 bytes"));
        let reply = exchange(other, &client.announce_request(&leecher(HASH, 1)));
        assert_eq!(reply[..4], 1_u32.to_be_bytes(), "{reply:?}");
        assert_eq!(reply[4..8], TRANSACTION.to_be_bytes());
    }
}

#[test]
fn refused_torrents_stay_out_until_the_list_allows_them() {
    let (directory, key) = key("list");
    let hex = |hash: [u8; 20]| hash.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let list = directory.write("list", hex(HASH));
    let a = node(V4, &key, &[], &[]);
    let b = node(V4, &key, &[a.cluster()], &["-w", &list]);
    a.wait_for_line(" is up");
    b.wait_for_line(" is up");
    announce(&a, &leecher(OTHER, 1));
    announce(&a, &leecher(HASH, 2));
    wait_for_counts(&b, HASH, [0, 0, 1]);
    assert_eq!(counts(&b, OTHER), [0; 3]);
    let totals = || common::http::get(b.tcp4(), "/metrics").text();
    assert!(totals().contains("announced_torrents 1\n"), "{}", totals());

    // Once repair has brought it in vain, tables are not compared for a minute, but for another list.
    wait_longer("repair to bring it", REPAIRED, || {
        let text = totals();
        let name = "announced_sync_received_repairs_total{";
        let mut counts = text.lines().filter(|line| line.starts_with(name));
        counts.any(|line| !line.ends_with(" 0")).then_some(())
    });
    directory.write("list", format!("{}\n{}\n", hex(HASH), hex(OTHER)));
    b.signal("HUP");
    wait_for_counts(&b, OTHER, [0, 0, 1]);
}

#[test]
fn names_are_resolved_at_the_start_and_when_told_to() {
    let (_directory, key) = key("names");
    let a = node(V4, &key, &[], &[]);
    let name = format!("localhost:{}", a.cluster().port());
    // No name server need be asked to know that there is no such name.
    let nobody = format!("{}:1", "x".repeat(64));
    let flags = [
        "--cluster-peer",
        &name,
        "--cluster-peer",
        &nobody,
        "--cluster-peer",
        "127.0.0.1:1",
    ];
    let b = node(V4, &key, &[], &flags);
    b.wait_for_line(&format!("cluster: {} is up", a.cluster()));
    let failure = format!("cluster: no address of {nobody}: ");
    b.wait_for_line(&failure);
    b.signal("HUP");
    b.wait_for_line("SIGHUP: resolving 2 names of nodes");
    announce(&b, &leecher(HASH, 1));
    wait_for_counts(&a, HASH, [0, 0, 1]);
    assert_eq!((b.count_lines(&failure), b.count_lines(" is up")), (1, 1));
}

/// What is read from name servers is read by a process that can do nothing with it.
#[test]
#[cfg(target_os = "linux")]
fn names_are_resolved_without_rights() {
    use std::os::unix::fs::MetadataExt;
    let (directory, key) = key("rights");
    if std::fs::metadata(&key).expect("was made").uid() != 0 {
        return common::skip("only root gives up rights");
    }
    let listed = directory.write("list", "");
    let flags = [
        "--cluster-peer",
        "localhost:1",
        "-b",
        "list",
        "-d",
        directory.path(),
    ];
    let daemon = node(V4, &key, &[], &flags);
    assert!(!listed.is_empty());
    let status = |id: &str| std::fs::read_to_string(format!("/proc/{id}/status")).ok();
    let parent = format!("\nPPid:\t{}\n", daemon.id());
    let look = || {
        let processes = std::fs::read_dir("/proc").expect("is there");
        let ids = processes.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let children = ids.filter(|id| status(id).is_some_and(|text| text.contains(&parent)));
        let mut seen: Vec<(bool, String, usize)> = children
            .filter_map(|id| {
                let is_nobody = status(&id)?.contains("\nUid:\t65534\t65534\t65534\t");
                let root = std::fs::read_link(format!("/proc/{id}/root")).ok()?;
                let open = std::fs::read_dir(format!("/proc/{id}/fd")).ok()?;
                Some((is_nobody, root.display().to_string(), open.count()))
            })
            .collect();
        seen.sort();
        seen
    };
    // The keeper of the list, and the resolver. Each has standard input, output, error and a socket.
    let expected = [(false, directory.path().into(), 4), (true, "/".into(), 4)];
    wait_for("both to have given up what they do not need", || {
        (look() == expected).then_some(())
    });
}

/// What a daemon has started ends with it, also while a name server that never answers is waited for.
#[test]
#[cfg(target_os = "linux")]
fn no_helper_outlives_its_daemon() {
    common::net::in_sandbox("no_helper_outlives_its_daemon", |lan| {
        let (server, host) = (lan.host(), lan.host());
        let silent = server.within(|| UdpSocket::bind((server.v4(), 53)).expect("it is free"));
        let deadline = Some(common::DEADLINE);
        silent.set_read_timeout(deadline).expect("an option");
        let config = lan.file("resolv.conf");
        let text = format!(
            "nameserver {}\noptions timeout:30 attempts:5\n",
            server.v4()
        );
        std::fs::write(&config, text).expect("resolv.conf");
        let mount = ["--bind", &config, "/etc/resolv.conf"];
        let mounted = std::process::Command::new("mount").args(mount).status();
        assert!(mounted.expect("mount runs").success());
        let (_directory, key) = key("helpers");
        let state = lan.file("state");
        let flags = "-i 10.77.0.2 -P 6969 -p 6969 --cluster-listen 10.77.0.2:6970 --cluster-peer a.example:6970";
        let flags = flags
            .split(' ')
            .chain(["--cluster-key", &key, "--state", &state]);
        let processes = || {
            let all = std::fs::read_dir("/proc").expect("is there").flatten();
            let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
            lines
                .filter(|line| String::from_utf8_lossy(line).contains(&state))
                .count()
        };
        let daemon = host.start(&flags.collect::<Vec<_>>());
        let question = uninterrupted(|| silent.recv(&mut [0; 512]));
        question.expect("a question");
        assert_eq!(processes(), 3, "daemon, keeper and resolver");
        daemon.signal("KILL");
        wait_for("all to end", || (processes() == 0).then_some(()));
    });
}

/// A name's address changes, once with a signal and once without; the daemon is in a root directory that
/// holds nothing.
#[test]
#[cfg(target_os = "linux")]
fn a_name_is_resolved_again_when_its_node_is_silent() {
    let test = "a_name_is_resolved_again_when_its_node_is_silent";
    common::net::in_sandbox(test, |lan| {
        let [one, two] = [lan.host(), lan.host()];
        let hosts = |address: std::net::IpAddr| {
            std::fs::write(lan.file("hosts"), format!("{address} b.example\n")).expect("is ours");
        };
        let key = lan.file("key");
        assert_eq!(run(&["--make-key", &key]).0, Some(0));
        std::fs::create_dir(lan.file("root")).expect("can be made");
        let start = |host: &common::net::Host, flags: &[&str]| {
            let listen = format!("{}:6970", host.v4());
            let flags = [&["--cluster-listen", &listen, "--cluster-key", &key], flags];
            host.start(&flags.concat())
        };
        hosts("10.77.0.99".parse().expect("an address"));
        let root = lan.file("root");
        let a = start(&one, &["-d", &root, "--cluster-peer", "b.example:6970"]);
        let b = start(&two, &[]);
        wait_longer("no answer", REPAIRED, || {
            (a.count_lines("cluster: no answer from b.example:6970") > 0).then_some(())
        });
        hosts(two.v4());
        a.signal("HUP");
        let up = format!("cluster: {}:6970 is up", two.v4());
        a.wait_for_line(&up);

        drop(b);
        let three = lan.host();
        hosts(three.v4());
        let _c = start(&three, &[]);
        let up = format!("cluster: {}:6970 is up", three.v4());
        wait_longer("the name to be resolved again", REPAIRED, || {
            (a.count_lines(&up) > 0).then_some(())
        });
    });
}

/// What cannot be reached, for whatever reason, is a line of the log; so is the node itself.
#[test]
fn who_is_not_there_costs_a_line() {
    let (_directory, key) = key("absent");
    let own = free_address().to_string();
    let absent = ["127.0.0.1:1", "127.255.255.255:1", "192.0.2.1:1"];
    let mut peers: Vec<SocketAddr> = absent
        .iter()
        .map(|a| a.parse().expect("an address"))
        .collect();
    peers.push(own.parse().expect("an address"));
    let a = node(&own, &key, &peers, &[]);
    let b = node(V4, &key, &[a.cluster()], &[]);
    a.wait_for_line(&format!("cluster: {own} is this node"));
    for absent in absent {
        let line = format!("cluster: no answer from {absent}");
        wait_longer(&line, REPAIRED, || (a.count_lines(&line) > 0).then_some(()));
    }
    announce(&a, &leecher(HASH, 1));
    wait_for_counts(&b, HASH, [0, 0, 1]);
    assert_eq!(
        (a.count_lines("no answer"), a.count_lines("this node")),
        (3, 1)
    );
}

#[test]
fn all_nodes_name_the_same_decoys() {
    let (_directory, key) = key("decoys");
    let a = node(V4, &key, &[], &["--decoys", "100"]);
    let b = node(V4, &key, &[a.cluster()], &["--decoys", "100"]);
    let client = Client::new(a.udp4());
    for port in 1..=20 {
        client.announce(&leecher(HASH, port));
    }
    let named = |node: &Daemon| -> BTreeSet<SocketAddr> {
        let asker = Announce {
            num_want: 200,
            ..leecher(HASH, 1)
        };
        let mut peers = Client::new(node.udp4()).announce(&asker).peers;
        peers.retain(|peer| !peer.ip().is_loopback());
        peers.into_iter().collect()
    };
    // How many each takes to be due depends on how the swarm grew.
    wait_for("both to name the same", || {
        let (ours, theirs) = (named(&a), named(&b));
        let both = ours.intersection(&theirs).count();
        (both >= 5 && 3 * both >= ours.len() + theirs.len()).then_some(())
    });
}

/// State is what a node knew when it ended, whatever the others have learned since.
#[test]
fn a_node_with_state_goes_on_from_there() {
    let (directory, key) = key("state");
    let (address, state) = (free_address().to_string(), directory.file("state"));
    let mut a = node(&address, &key, &[], &["--state", &state]);
    let b = node(V4, &key, &[a.cluster()], &[]);
    b.wait_for_line(" is up");
    announce(&a, &leecher(HASH, 1));
    wait_for_counts(&b, HASH, [0, 0, 1]);
    a.signal("TERM");
    assert!(a.wait().0.success());
    announce(
        &b,
        &Announce {
            event: 3,
            ..leecher(HASH, 1)
        },
    );
    announce(&b, &leecher(OTHER, 2));

    let a = node(&address, &key, &[], &["--state", &state]);
    a.wait_for_line("1 torrent");
    wait_for_counts(&a, OTHER, [0, 0, 1]);
    wait_for_counts(&a, HASH, [0, 0, 0]);
    assert_eq!(counts(&b, HASH), [0, 0, 0]);
}

#[test]
fn keys_are_made_once_and_must_be_secret() {
    let (directory, key) = key("key");
    let mode = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&key, permissions).expect("is ours");
    };
    let metadata = std::fs::metadata(&key).expect("was made");
    assert_eq!(
        (metadata.len(), metadata.permissions().mode() & 0o777),
        (32, 0o600)
    );
    let (code, _, err) = run(&["--make-key", &key]);
    assert_eq!(code, Some(1));
    assert!(
        err.starts_with(&format!("announced: --make-key '{key}': ")),
        "{err}"
    );

    let try_key = |key: &str| {
        let mut all = Vec::new();
        for check in [&["-n"][..], &[]] {
            let flags = [
                "-i",
                "127.0.0.1",
                "-P",
                "0",
                "--cluster-listen",
                V4,
                "--cluster-key",
                key,
            ];
            all.push(run(&[check, &flags].concat()));
        }
        let [(code, _, err), started @ ..] = &all[..] else {
            panic!("{all:?}");
        };
        assert_eq!(*code, Some(1));
        // Without a word of a port.
        for (code, _, other_err) in started {
            assert_eq!((*code, other_err), (Some(1), err));
        }
        let start = format!("announced: --cluster-key '{key}': ");
        err.strip_prefix(&start)
            .unwrap_or_else(|| panic!("{err}"))
            .to_owned()
    };
    mode(0o640);
    assert_eq!(
        try_key(&key),
        "mode 640: others than its owner can get at it; wanted is 600\n"
    );
    mode(0o600);
    std::fs::write(&key, [1; 31]).expect("is written");
    assert_eq!(try_key(&key), "31 bytes: wanted are 32 or more\n");
    assert!(try_key(&directory.file("missing")).contains("No such file"));
    assert!(try_key(directory.path()).contains("directory"));

    std::fs::write(&key, [1; 32]).expect("is written");
    let flags = [
        "-n",
        "--cluster-listen",
        "192.0.2.1:6970",
        "--cluster-key",
        &key,
    ];
    let (code, out, _) = run(&[&flags[..], &["--cluster-peer", "b.example:6970"]].concat());
    assert_eq!(code, Some(0));
    for line in [
        "take part in a cluster at 192.0.2.1:6970\n",
        "share peers with cluster node b.example:6970\n",
        &format!("believe who has the key in {key}\n"),
    ] {
        assert!(out.contains(line), "{out}");
    }
}
