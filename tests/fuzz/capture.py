"""Records what real clients send to a tracker, and two nodes to each other, as inputs of fuzz targets.

As root, in a network of its own: unshare -n python3 tests/fuzz/capture.py ANNOUNCED FOLDER. Needs aria2, mktorrent,
python3-libtorrent, rtorrent and transmission-daemon. Afterwards `corpus pack` adds FOLDER/TARGET to a corpus.
"""

import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

PROGRAM, FOLDER = sys.argv[1:]
CLUSTER, MULTICAST = 7001, 9696
CONNECT = bytes.fromhex("0000041727101980")


def put(target, data):
    os.makedirs(f"{FOLDER}/{target}", exist_ok=True)
    with open(f"{FOLDER}/{target}/{hashlib.sha1(data).hexdigest()}", "wb") as file:
        file.write(data)


def datagram(payload, port, is_v6):
    """As the target reads it: flags, length, the datagram. Its connection id is made valid."""
    if port == MULTICAST:
        put("multicast", b"\0" + payload)
    elif port == 6969:
        is_connect = payload.startswith(CONNECT)
        flags = (0 if is_connect else 1) | (2 if is_v6 else 0)
        put("udp", struct.pack(">BH", flags, len(payload)) + payload)


def segment(payload, port):
    if port == 6969 and payload.startswith(b"GET "):
        put("http", payload)
        put("query", payload.split(b" HTTP/")[0].partition(b"?")[2])
    elif payload.startswith(b"announce"):
        put("frames", payload[:74])


def sniff():
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    sniffer.bind(("lo", 0))
    while True:
        packet, (_, protocol, kind, *_) = sniffer.recvfrom(65536)
        if kind != socket.PACKET_OUTGOING:
            continue
        is_v6 = protocol == 0x86DD
        header, transport = (40, packet[6]) if is_v6 else (packet[0] % 16 * 4, packet[9])
        packet = packet[header:]
        port = struct.unpack(">H", packet[2:4])[0]
        if transport == socket.IPPROTO_UDP:
            datagram(packet[8:], port, is_v6)
        elif transport == socket.IPPROTO_TCP:
            segment(packet[packet[12] // 16 * 4:], port)


def clients(home, torrent):
    """The commands of all clients, which leave at SIGINT."""
    data = f"{home}/data"
    with open(f"{home}/.rtorrent.rc", "w") as file:
        file.write(f"system.daemon.set = true\ndirectory.default.set = {data}\ndht.mode.set = disable\n"
                   "network.port_range.set = 6882-6882\ntrackers.use_udp.set = yes\n")
    os.makedirs(f"{home}/torrents")
    os.link(torrent, f"{home}/torrents/file.torrent")
    with open(f"{home}/settings.json", "w") as file:
        json.dump({"dht-enabled": False, "download-dir": data, "peer-port": 6883, "utp-enabled": False}, file)
    yield ["aria2c", "--no-conf", "--seed-ratio=0.0", "--enable-dht=true", f"--dht-file-path={home}/dht",
           f"--dir={data}", "--listen-port=6881", "--dht-listen-port=6881", "--check-integrity=true", torrent]
    yield ["rtorrent", torrent]
    yield ["transmission-daemon", "--foreground", "--config-dir", home]
    yield ["/usr/bin/python3", "tests/clients/libtorrent_client.py", torrent, data, "127.0.0.1:6884"]


def main():
    for words in ["link set lo up multicast on", "addr add 10.77.0.1/24 dev lo", "route add 224.0.0.0/4 dev lo"]:
        subprocess.run(["ip", *words.split()], check=True)
    threading.Thread(target=sniff, daemon=True).start()
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        key = f"{folder}/key"
        subprocess.run([PROGRAM, "--make-key", key], check=True)
        nodes = []
        for own, other in [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")]:
            words = (f"-i {own} -p 6969 -P 6969 --state {folder}/{own} --cluster-key {key} "
                     f"--cluster-listen {own}:{CLUSTER} --cluster-peer {other}:{CLUSTER}")
            sync = f" --sync-multicast 10.77.0.1:{MULTICAST} --sync-node 10.77.0.0/24" if own == "127.0.0.1" else ""
            nodes.append(subprocess.Popen([PROGRAM, *(words + sync).split()]))
        for url in ["http://127.0.0.1:6969/announce", "udp://127.0.0.1:6969/announce"]:
            with tempfile.TemporaryDirectory() as home:
                os.makedirs(f"{home}/data")
                with open(f"{home}/data/file", "wb") as file:
                    file.write(bytes(100_000))
                torrent = f"{home}/file.torrent"
                subprocess.run(["mktorrent", "-p", "-a", url, "-o", torrent, f"{home}/data/file"], check=True, **quiet)
                running = [subprocess.Popen(command, env=os.environ | {"HOME": home}, **quiet)
                           for command in clients(home, torrent)]
                time.sleep(12)
                for process in running:
                    process.send_signal(signal.SIGINT)
                time.sleep(3)
                for process in running:
                    process.kill()
                    process.wait()
        time.sleep(16)
        for node in nodes:
            node.terminate()
            node.wait()
        for own in ["127.0.0.1", "127.0.0.2"]:
            with open(f"{folder}/{own}", "rb") as file:
                put("state", file.read())


main()
