"""A BitTorrent client in a few lines of libtorrent, which comes as a library.

It joins the swarm of one torrent, finding peers by its tracker alone, and on SIGTERM leaves again.
usage: libtorrent_client.py TORRENT DIRECTORY LISTEN-ADDRESS:PORT
"""

import signal
import sys
import time

import libtorrent

KINDS = libtorrent.alert.category_t
ALERTS = (
    KINDS.connect_notification | KINDS.error_notification | KINDS.status_notification | KINDS.tracker_notification
)


def main(torrent, directory, listen):
    # Before the session starts its threads, which inherit it: the signal waits until it is asked for.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    session = libtorrent.session({
        "listen_interfaces": listen,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_natpmp": False,
        "enable_upnp": False,
        "alert_mask": ALERTS,
    })
    add = libtorrent.add_torrent_params()
    add.ti = libtorrent.torrent_info(torrent)
    add.save_path = directory
    add.flags |= libtorrent.torrent_flags.disable_dht
    add.flags |= libtorrent.torrent_flags.disable_lsd
    add.flags |= libtorrent.torrent_flags.disable_pex
    session.add_torrent(add)

    while signal.sigtimedwait([signal.SIGTERM], 0.1) is None:
        report(session)

    # Pausing a session is how libtorrent says `stopped` to every tracker.
    session.pause()
    deadline = time.monotonic() + 10
    stopping = False
    while time.monotonic() < deadline:
        for alert in report(session):
            if isinstance(alert, libtorrent.tracker_announce_alert):
                stopping = alert.event == libtorrent.event_t.stopped
            elif stopping and isinstance(alert, (libtorrent.tracker_reply_alert, libtorrent.tracker_error_alert)):
                return
        session.wait_for_alert(100)


def report(session):
    """Prints and returns what happened."""
    alerts = session.pop_alerts()
    for alert in alerts:
        print(type(alert).__name__, alert.message(), flush=True)
    return alerts


main(*sys.argv[1:])
