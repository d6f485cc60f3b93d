//! Sockets of admins: statistics, metrics and health, and nothing else, for every client.

use super::common::http::{Client, Response, get};
use super::common::{Daemon, run};
use super::{HASH, SPOOFED, directory, unix_flag, with_headers};

const REPORTS: [&str; 3] = ["/stats", "/metrics", "/stats?mode=top10"];

fn is_not_found(response: &Response) -> bool {
    response.status == 404 && response.text() == "404 Not Found\n"
}

/// Checks what a socket of admins serves, to a client that has headers of a proxy.
fn assert_is_for_admins(client: &mut Client) {
    for header in ["", SPOOFED] {
        for path in REPORTS.iter().chain(&["/health"]) {
            let response = client.request(with_headers(path, header));
            assert_eq!(response.status, 200, "{path} {header}");
        }
        let announce = format!("/announce?info_hash={HASH}&port=1");
        for path in [&announce, "/scrape", "/", "/robots.txt", "/x", "/health/"] {
            let response = client.request(with_headers(path, header));
            assert!(is_not_found(&response), "{path} {header}");
        }
    }
}

#[test]
fn reports_are_served_on_them_and_on_no_public_port() {
    let (_directory, path) = directory();
    let unix = unix_flag(&path);
    for threads in ["1", "2"] {
        let flags = [
            &["-j", threads, "--public-stats", "--admin-listen", &unix][..],
            &["--admin-listen", "127.0.0.1:0", "--admin-listen", "[::1]:0"],
        ];
        let daemon = Daemon::start(&flags.concat());
        let admin = daemon.addresses("admin");
        assert_eq!(admin.len(), 2, "{:?}", daemon.log());
        daemon.wait_for_line(&format!("listening on admin unix {}", path.display()));
        for address in &admin {
            assert_is_for_admins(&mut Client::new(*address));
        }
        assert_is_for_admins(&mut Client::new_unix(&path));
        for address in [daemon.tcp4(), daemon.tcp6()] {
            for path in REPORTS {
                assert!(is_not_found(&get(address, path)), "{path}");
            }
            assert_eq!(get(address, "/health").text(), "ok\n");
            let announce = format!("/announce?info_hash={HASH}&port=1");
            assert_eq!(get(address, &announce).status, 200);
            // The list of announce URLs.
            let text = get(address, "/").text();
            let is_listed = |a: &std::net::SocketAddr| text.contains(&a.port().to_string());
            assert!(!admin.iter().any(is_listed), "{text}");
        }
        let health = run(&["--health", &admin[0].to_string()]);
        assert_eq!(health, (Some(0), "ok\n".into(), String::new()));
    }
}

#[test]
fn they_take_no_proxy_header_and_have_the_path_of_the_statistics() {
    let flags = "--proxy 127.0.0.0/8 --proxy-protocol --stats-path /s --admin-listen 127.0.0.1:0";
    let daemon = Daemon::start(&flags.split(' ').collect::<Vec<_>>());
    let admin = daemon.addresses("admin")[0];
    for (path, status) in [("/s", 200), ("/metrics", 200), ("/stats", 404)] {
        assert_eq!(get(admin, path).status, status, "{path}");
    }
    let mut client = Client::new(admin);
    client.send("PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n");
    assert_eq!(client.receive().status, 400);
}

#[test]
fn their_addresses_are_given_in_full_and_are_their_own() {
    for bad in [
        "80",
        "127.0.0.1",
        "::1",
        "[::1]",
        "localhost:80",
        "unix:x",
        "[fe80::1%1]:80",
        "",
    ] {
        let (code, _, err) = run(&["-n", "--admin-listen", bad]);
        let start = format!("announced: --admin-listen: invalid value '{bad}': expected IP:PORT,");
        assert!(code == Some(2) && err.starts_with(&start), "{err}");
    }
    let daemon = Daemon::start(&[]);
    let taken = daemon.tcp4().to_string();
    for threads in ["1", "2"] {
        let flags = [
            "-i",
            "127.0.0.1",
            "-p",
            "0",
            "-j",
            threads,
            "--admin-listen",
            &taken,
        ];
        let (code, _, err) = run(&flags);
        // With glibc, and with musl.
        let reasons = ["Address already in use", "Address in use"];
        let is_expected = |reason| {
            let error = format!("announced: cannot listen on admin {taken}: {reason}\n");
            err.ends_with(&error)
        };
        assert!(
            code == Some(1) && reasons.into_iter().any(is_expected),
            "{err}"
        );
    }
}
