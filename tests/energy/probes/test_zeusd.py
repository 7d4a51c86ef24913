"""Zeus' daemon: its counters in joules, each once, or why there are none."""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from dpet_jax.energy.probes import zeusd

KNOWN = {
    "gpus": [
        {
            "id": n,
            "name": "A40",
            "pci_address": "-",
            "cumulative_energy_available": n == 0,
        }
        for n in (0, 1)
    ],
    "cpus": [{"id": 0, "dram_available": True}, {"id": 1, "dram_available": False}],
    "enabled_api_groups": ["gpu-read", "cpu-read"],
    "auth_required": False,
}
CPU = "/cpu/get_cumulative_energy?cpu_ids={}&cpu={}&dram={}"
ANSWERS = {
    "/discover": KNOWN,
    "/gpu/get_cumulative_energy?gpu_ids=0": {"0": {"energy_mj": 5000}},
    "/gpu/get_power?gpu_ids=0": {"timestamp_ms": 1, "power_mw": {"0": 75000}},
    "/gpu/get_power?gpu_ids=1": {"timestamp_ms": 1, "power_mw": {"1": 60000}},
    CPU.format(0, "true", "false"): {"0": {"cpu_energy_uj": 7e6}},
    CPU.format(0, "false", "true"): {"0": {"dram_energy_uj": 2e6}},
    CPU.format(1, "true", "false"): {"1": {"cpu_energy_uj": 9e6}},
}


@pytest.fixture
def daemon(tmp_path):
    """Serve some answers on a socket; the test may change them."""
    answers, asked = dict(ANSWERS), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self):
            return "client"

        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            body = json.dumps(answers.get(self.path)).encode()
            self.send_response(200 if self.path in answers else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        block_on_close = False

    path = tmp_path / "zeusd.sock"
    with Server(str(path), Handler) as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        thread.start()
        yield {zeusd.VARIABLE: str(path)}, answers, asked
        server.shutdown()
        thread.join()


def read(found):
    values = {probe.id: probe.read() for probe in found.probes}
    for probe in found.probes:
        probe.close()
    return values


def test_gpus_are_read_in_joules_and_watts(daemon):
    environ, _, _ = daemon
    assert zeusd.absent(environ) is None
    found = zeusd.gpus(2, environ)
    assert read(found) == {"gpu:zeusd-0": (5.0, 75.0), "gpu:zeusd-1": (60.0,)}
    kinds = [[s.kind for s in probe.sources] for probe in found.probes]
    assert kinds == [["counter", "power"], ["power"]]
    assert found.probes[0].facts()["name"] == "A40"


def test_gpus_that_cannot_be_told_apart_are_not_guessed(daemon):
    (entry,) = zeusd.gpus(1, daemon[0]).unavailable
    assert entry.reason.startswith("zeusd: it reads 2 GPUs, of which 1 are used here")


def test_only_what_is_wanted_of_cpu_and_memory_is_read(daemon, tmp_path):
    environ, _, _ = daemon
    both = zeusd.cpus(frozenset({"cpu", "dram"}), environ, tmp_path)
    assert "may be psys" in both.probes[0].facts()["warnings"][0]
    assert read(both) == {
        "cpu:zeusd-0": (7.0,),
        "dram:zeusd-0": (2.0,),
        "cpu:zeusd-1": (9.0,),
    }
    assert list(read(zeusd.cpus(frozenset({"dram"}), environ, tmp_path))) == [
        "dram:zeusd-0"
    ]


def test_domain_that_holds_the_packages_is_not_counted_beside_them(daemon, tmp_path):
    for number, name in enumerate(("package-0", "psys")):
        folder = tmp_path / f"intel-rapl:{number}"
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n")
    found = zeusd.cpus(frozenset({"cpu"}), daemon[0], tmp_path)
    assert [probe.id for probe in found.probes] == ["cpu:zeusd-0"]
    assert found.probes[0].facts()["warnings"] == []


def test_refused_or_empty_answer_is_none_and_the_next_one_counts(daemon):
    environ, answers, _ = daemon
    first, _ = zeusd.gpus(None, environ).probes
    path = "/gpu/get_cumulative_energy?gpu_ids=0"
    good = answers.pop(path)
    assert first.read() == (None, 75.0)
    answers[path] = {"0": {"energy_mj": None}}
    assert first.read() == (None, 75.0)
    answers[path] = good
    assert first.read() == (5.0, 75.0)
    first.close()


def test_token_is_sent_and_asked_for(daemon):
    environ, answers, asked = daemon
    answers["/discover"] = KNOWN | {"auth_required": True}
    (entry,) = zeusd.gpus(2, environ).unavailable
    assert "set ZEUSD_TOKEN" in entry.reason
    assert zeusd.gpus(2, environ | {zeusd.TOKEN: "t"}).probes
    assert asked[-1] == ("/discover", "Bearer t")


def test_group_that_is_switched_off_is_a_reason(daemon):
    environ, answers, _ = daemon
    answers["/discover"] = KNOWN | {"enabled_api_groups": ["gpu-read"]}
    (entry,) = zeusd.cpus(frozenset({"cpu"}), environ).unavailable
    assert entry.reason == "zeusd: it was started without --enable cpu-read"
    answers["/discover"] = {}
    assert "lacks" in zeusd.gpus(1, environ).unavailable[0].reason


def test_socket_that_nobody_listens_on_is_a_reason(tmp_path):
    path = tmp_path / "none.sock"
    environ = {zeusd.VARIABLE: str(path)}
    assert zeusd.absent(environ) == f"zeusd: no socket at {path}"
    (entry,) = zeusd.gpus(1, environ).unavailable
    assert entry.reason.startswith("zeusd: no such file")
