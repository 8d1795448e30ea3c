"""Machines for tests: network namespaces on a bridge of their own. Linux, as root."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

_NET = "192.0.2."  # for documentation (RFC 5737): nobody has these addresses


def missing() -> str | None:
    """Return why there can be no machines here; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if any(shutil.which(tool) is None for tool in ("ip", "ss", "setpriv")):
        return "network namespaces need `ip` and `ss` (iproute2) and `setpriv` (util-linux)"
    name = f"ht-{os.getpid()}-try"
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "bridge", "type", "bridge")
        _ip("netns", "exec", name, "mount", "--bind", "/tmp", "/tmp")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode().strip()}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    return None


class Machine:
    """A network of its own with what runs in it. All machines share the disk.

    Args:
        name: Of its namespace.
        address: On the common network.
        folder: For its home, its temporary files and its logs.
    """

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._ray = folder.with_name("ray")
        (folder / "home").mkdir(parents=True)
        (folder / "ray").mkdir()

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return a command line that runs a command on this machine.

        Of the disk, one folder is the machine's alone: where Ray keeps its sockets.
        """
        mounting = 'mount --bind "$0" "$1" && shift && exec "$@"'
        private = ["sh", "-c", mounting, str(self.folder / "ray"), str(self._ray)]
        return ["ip", "netns", "exec", self.name, *private, *command]

    def start(
        self, what: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a program. It sees nothing of this process's environment but the way to Python.

        Args:
            what: Name of the file, in the machine's folder, for what it says.
            command: The program with its arguments.
            env: Its further environment.
        """
        with (self.folder / f"{what}.log").open("ab") as log:
            process = subprocess.Popen(
                self.inside(command),
                env={**self.env(), **(env or {})},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def env(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PATH": path,
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "RAY_TMPDIR": str(self._ray),
        }

    def processes(self) -> list[psutil.Process]:
        """Return all that runs here, whoever started it."""
        said = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        )
        found = []
        for pid in said.stdout.split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def listeners(self) -> dict[tuple[str, int], str]:
        """Return the command line behind each address and port that is listened on, TCP or UDP."""
        said = subprocess.run(
            self.inside(["ss", "--listening", "--tcp", "--udp", "--numeric", "--processes", "-H"]),
            capture_output=True,
            text=True,
            check=True,
        )
        found = {}
        for line in said.stdout.splitlines():
            kind, _, _, _, local, _, *who = line.split()
            ip, _, port = local.rpartition(":")
            ip = ip.strip("[]").removeprefix("::ffff:")
            pid = re.search(r"pid=(\d+)", " ".join(who))
            command = kind
            with contextlib.suppress(psutil.NoSuchProcess):
                command += " " + " ".join(psutil.Process(int(pid[1])).cmdline()) if pid else ""
            found["0.0.0.0" if ip in ("*", "::") else ip, int(port)] = command
        return found

    def kill(self) -> None:
        """Let the machine lose its power."""
        while running := self.processes():
            for process in running:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            for started in self._started:
                started.poll()
            time.sleep(0.05)
        for started in self._started:
            started.wait(10)

    def said(self) -> str:
        """Return the ends of all logs, for a failed test to show."""
        logs = {path.name: path.read_text(errors="replace") for path in self.folder.glob("*.log")}
        return "\n".join(f"--- {self.name} {name}\n{text[-2000:]}" for name, text in logs.items())


@contextlib.contextmanager
def machines(names: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Machine]]:
    """Have machines on a common network; all that runs on them ends with the block.

    Args:
        names: Of each machine, with the names that all of them find it by.

    Yields:
        The machines, and a folder that is gone afterwards as well.
    """
    # Short: Ray puts sockets there, whose paths may have 107 characters.
    root = Path(tempfile.mkdtemp(prefix="ht-"))
    root.chmod(0o755)  # PostgreSQL is no root
    (root / "ray").mkdir()
    prefix = f"ht-{os.getpid()}"
    lan = f"{prefix}-lan"
    known = {name: f"{_NET}{number}" for number, name in enumerate(names, 1)}
    hosts = ["127.0.0.1 localhost"]
    hosts += [f"{known[name]} {name} {' '.join(names[name])}" for name in names]
    made: dict[str, Machine] = {}
    try:
        _ip("netns", "add", lan)
        _ip("-n", lan, "link", "add", "bridge", "type", "bridge")
        _ip("-n", lan, "link", "set", "bridge", "up")
        for name, address in known.items():
            space = f"{prefix}-{name}"
            _ip("netns", "add", space)
            made[name] = Machine(space, address, root / name)
            etc = Path("/etc/netns", space)  # `ip netns exec` shows it as /etc
            etc.mkdir(parents=True)
            (etc / "hosts").write_text("\n".join(hosts) + "\n")
            peer = ("peer", "name", "eth0", "netns", space)
            _ip("-n", lan, "link", "add", f"to-{name}", "type", "veth", *peer)
            _ip("-n", lan, "link", "set", f"to-{name}", "master", "bridge", "up")
            _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
        yield made
    finally:
        for machine in made.values():
            machine.kill()
            _ip("netns", "delete", machine.name)
            shutil.rmtree(Path("/etc/netns", machine.name), ignore_errors=True)
        subprocess.run(["ip", "netns", "delete", lan], capture_output=True)
        shutil.rmtree(root, ignore_errors=True)


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


def wait_for(what: str, happens: Callable[[], bool], *, while_: Callable[[], bool]) -> None:
    """Wait until something happens.

    Args:
        what: It, for the message.
        happens: Says whether it has happened.
        while_: Says whether it may still happen; it is not waited for any longer otherwise.
    """
    deadline = time.monotonic() + 240
    while not happens():
        assert while_(), f"it ended before this: {what}"
        assert time.monotonic() < deadline, f"it did not come to this: {what}"
        time.sleep(0.1)
