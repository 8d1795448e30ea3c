"""The batch script: what it asks for, and how it ends, is queued again and goes on."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TOY
from slurm_stand_in import JOB, stand_in

from hypertune import cli
from hypertune.cluster import Batch, send_batch, slurm
from hypertune.core.errors import SettingError

Call = Callable[..., tuple[int, str, str]]
DRIVER = """#!/bin/bash
# In the place of Python: a driver that ends cleanly when it is told to, and then has more to do.
echo "driver $* $RAY_OVERRIDE_RESOURCES $RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH" >> {folder}/driver.log
while [ "$1" != --studies-dir ]; do shift; done
mkdir -p "$2/far"
if [ -e "$2/far/journal.db" ]; then echo "finished" >> "$2/far/journal.db"; exit {status}; fi
trap 'echo "told to end" >> "$journal"; exit 130' TERM
journal="$2/far/journal.db"
echo "began" > "$journal"
touch {folder}/searching
while true; do sleep 0.05; done
"""
RAY = """#!/bin/bash
# In the place of Ray: what comes after "--" runs on the head.
echo "ray $*" >> {folder}/ray.log
while [ "$1" != -- ]; do shift; done
shift
"$@"
"""


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run the command line in this process; it returns the exit status and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hypertune", "submit", "--slurm", *args])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--slurm needs --storage, a folder or bucket that all nodes reach"),
        ([], "--time-limit must be the wall time of one run of the job as SLURM writes it"),
        (["--time-limit", "4h"], "but got '4h'"),
        (["--time-limit", "10"], "--time-limit must be more than 10 minutes"),
        (["--time-limit", "5:00"], "of which the last 5 are for a clean end, but got 5:00"),
        (["--nodes", "0"], "--nodes must be at least 1, but got 0"),
        (["--memory", "8GB"], "--memory must be a whole number with K, M, G or T"),
        (["--sbatch-option", "qos=high"], "--sbatch-option must be one of sbatch's"),
        (["--partition", "gpu\nrm -rf x"], "--partition must be a name that SLURM knows"),
        (["--account", "a b;c"], "--account must be a name that SLURM knows, but got 'a b;c'"),
        (["--storage", "gone"], "--storage must be the full path of a folder that is there"),
        (["--no-wait"], "--no-wait: not with --slurm"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(
    args: list[str], message: str, call: Call, tmp_path: Path
) -> None:
    status, _out, err = call("--space", "gru_window", *args)
    assert status == 2
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15", 900), ("15:30", 930), ("4:00:00", 14400), ("1-12", 129600), ("1-0:30", 88200)],
)
def test_wall_times_are_read_as_slurm_does(text: str, seconds: int) -> None:
    assert slurm._seconds(text) == seconds


def test_a_dry_run_shows_a_script_that_bash_can_read_and_sends_nothing(
    call: Call, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "mine.py").write_text(TOY.read_text())
    args = ["--space", "mine.py", "--storage", str(tmp_path / "shared"), "--name", "far"]
    args += ["--partition", "gpu", "--account", "me", "--nodes", "2", "--cpus", "8", "--gpus", "4"]
    args += ["--memory", "32G", "--time-limit", "1-12", "--sbatch-option", "--qos=high"]
    status, out, err = call(*args, "--set", "marker=a b; c", "--dry-run")
    assert status == 0, err
    script = out[: out.index("Nothing was sent.")]
    assert "".join(script.splitlines()[:1]) == "#!/bin/bash"
    for directive in (
        "--partition=gpu",
        "--account=me",
        "--nodes=2",
        "--cpus-per-task=8",
        "--gpus-per-node=4",
        "--mem=32G",
        "--time=1-12",
        "--exclusive",
        "--qos=high",
        "--signal=B:TERM@300",
        "--requeue",
    ):
        assert f"#SBATCH {directive}\n" in script
    # What the script names is found from any folder; and the token is only pointed to.
    assert f"--space {tmp_path / 'mine.py'}" in script
    assert "'marker=a b; c'" in script
    token = tmp_path / "home" / ".ray" / "auth_token"
    assert f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token}" in script
    assert token.read_text() not in script
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.glob("*.sbatch"))


def test_a_study_that_is_here_already_is_not_written_over(call: Call, tmp_path: Path) -> None:
    (tmp_path / "studies" / "far").mkdir(parents=True)
    args = ["--space", "gru_window", "--storage", str(tmp_path), "--time-limit", "1:00:00"]
    status, _out, err = call(*args, "--name", "far", "--dry-run")
    assert status == 2
    assert "A study is in studies/far here already" in err
    assert call(*args, "--name", "far", "--or-resume", "--dry-run")[0] == 0


def test_a_token_that_others_can_read_is_refused(call: Call, tmp_path: Path) -> None:
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text("x")
    token.chmod(0o644)
    args = ["--space", "gru_window", "--storage", str(tmp_path), "--time-limit", "1:00:00"]
    status, _out, err = call(*args, "--dry-run")
    assert status == 2
    assert "must be readable by you alone; run: chmod 600" in err


def test_without_slurm_it_says_where_to_run_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingError, match="There is no sbatch here: run this on a login node"):
        send_batch(tmp_path / "a.sbatch")


def wait_for(path: Path, text: str = "") -> None:
    """Wait until a file is there, and holds a text."""
    deadline = time.monotonic() + 60
    while not (path.is_file() and text in path.read_text()):
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("nodes", "signal", "state", "status", "ended"),
    [
        # What --signal=B:TERM does: it is queued again, and finished then; or failed then.
        (1, "TERM", "RUNNING", 0, ["130", "0"]),
        (2, "TERM", "RUNNING", 0, ["130", "0"]),
        (1, "TERM", "RUNNING", 1, ["130", "1"]),
        (1, "TERM", "CANCELLED", 0, ["130"]),
        (2, "USR1", "RUNNING", 0, ["130"]),  # the end that its owner wants
    ],
)
def test_a_driver_that_is_told_ends_cleanly_and_before_the_wall_limit_the_job_goes_on(
    nodes: int,
    signal: str,
    state: str,
    status: int,
    ended: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in stand_in(tmp_path / "slurm").items():
        monkeypatch.setenv(name, value)
    commands = {"python": DRIVER, "ray": RAY}
    for name, text in commands.items():
        path = tmp_path / "slurm" / "bin" / name
        path.write_text(text.replace("{folder}", str(tmp_path)).replace("{status}", str(status)))
        path.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "local"))
    (tmp_path / "local").mkdir()
    script = tmp_path / "far.sbatch"
    script.write_text(
        slurm.batch_script(
            Batch(time_limit="1:00:00", cpus=2, nodes=nodes),
            {"--space": "mine.py", "--storage": "/shared", "--set": ["a=1", "b=2 3"]},
            name="far",
            studies_dir=None,
            python=str(tmp_path / "slurm" / "bin" / "python"),
            token=tmp_path / "token",
            folder=tmp_path,
        )
    )
    mine = tmp_path / "studies" / "far" / "journal.db"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert send_batch(script) == JOB

    wait_for(tmp_path / "searching")
    (tmp_path / "slurm" / "state").write_text(state)
    shell = int((tmp_path / "slurm" / "shell.pid").read_text())
    subprocess.run(["kill", f"-{signal}", str(shell)], check=True)
    wait_for(tmp_path / "slurm" / "state", "COMPLETED")

    log = (tmp_path / f"far-{JOB}.log").read_text()
    assert (tmp_path / "slurm" / "ended").read_text().split() == ended, log
    driver = (tmp_path / "driver.log").read_text().splitlines()
    assert len(driver) == len(ended)
    for line in driver:
        assert "run --space mine.py --storage /shared --set a=1 --set b=2 3 --name far" in line
        assert "--or-resume" in line
        assert line.endswith(f"token {tmp_path / 'token'}")
        assert ('{"CPU": 2, "GPU": 0}' in line) == (nodes == 1)
        assert ("--address 127.0.0.1:20007" in line) == (nodes > 1)
    ray = tmp_path / "ray.log"
    assert ray.exists() == (nodes > 1)
    if nodes > 1:
        expected = "ray symmetric-run --address 127.0.0.1:20007 --min-nodes 2 --num-cpus=2"
        assert ray.read_text().startswith(expected)
    # The journal is on the local disk while it is searched with, and goes home then; what was there
    # before is kept.
    studies = tmp_path / "studies"
    assert sorted(path.name for path in studies.iterdir()) == ["far", f"far.before-{JOB}"]
    assert (studies / f"far.before-{JOB}" / "journal.db").read_text() == "mine"
    home = (studies / "far" / "journal.db").read_text().splitlines()
    assert home == ["began", "told to end", "finished"][: len(ended) + 1]


FINISHES = """#!/bin/bash
# In the place of Python: a driver that finishes its study at once.
while [ "$1" != --studies-dir ]; do shift; done
mkdir -p "$2/far" && echo new >> "$2/far/journal.db"
"""


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, str]]:
    """Run a script whose driver finishes at once; it returns the status and what was said."""
    for name, value in stand_in(tmp_path / "slurm").items():
        monkeypatch.setenv(name, value)
    python = tmp_path / "slurm" / "bin" / "python"
    python.write_text(FINISHES)
    python.chmod(0o755)
    (tmp_path / "local").mkdir()
    for name, value in {"TMPDIR": str(tmp_path / "local"), "USER": "me"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    script = slurm.batch_script(
        Batch(time_limit="1:00:00"),
        {},
        name="far",
        studies_dir=None,
        python=str(python),
        token=tmp_path / "token",
        folder=tmp_path / "home",
    )

    def batch() -> tuple[int, str]:
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return batch


def test_the_studies_lie_in_folders_that_nobody_else_can_touch(
    batch: Callable[[], tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "local").chmod(0o1777)
    before = os.umask(0)
    try:
        assert batch() == (0, "")
    finally:
        os.umask(before)
    for folder in ("hypertune-me", "hypertune-me/studies"):
        assert stat.S_IMODE((tmp_path / "local" / folder).stat().st_mode) == 0o700
    assert batch()[0] == 0  # it goes on there when it is sent again


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("trap", ["folder", "link", "link into our own"])
def test_a_folder_on_the_way_that_somebody_else_made_is_refused(
    trap: str, batch: Callable[[], tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "local").chmod(0o1777)
    target = tmp_path / "local" / "hypertune-me"
    if trap == "folder":
        target.mkdir(mode=0o777)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        target.symlink_to(tmp_path / "elsewhere")
        if trap == "link":
            os.chown(tmp_path / "elsewhere", 12345, 12345)
    os.chown(target, 12345, 12345, follow_symlinks=False)
    status, said = batch()
    assert status == 1
    assert f"'{target}'" in said
    assert "belongs to somebody else" in said
    assert "name another with --studies-dir" in said
    assert not list(tmp_path.rglob("journal.db"))


def test_a_folder_that_everybody_can_replace_is_refused(
    batch: Callable[[], tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "local").chmod(0o777)
    status, said = batch()
    assert status == 1
    assert f"Everybody can replace '{tmp_path / 'local' / 'hypertune-me'}'" in said


@pytest.mark.parametrize("fails_on", [".far.new", ".far.old", "far.before"])
def test_a_copy_home_that_fails_costs_no_earlier_one(
    fails_on: str, batch: Callable[[], tuple[int, str]], tmp_path: Path
) -> None:
    home = tmp_path / "home" / "studies" / "far"
    assert batch()[0] == 0
    if fails_on == "far.before":
        (home / "batch-copy").unlink()  # it is not known for a copy
    mv = tmp_path / "slurm" / "bin" / "mv"
    mv.write_text(f'#!/bin/bash\n[[ "$*" == *{fails_on}* ]] && exit 1\nexec /bin/mv "$@"\n')
    mv.chmod(0o755)
    status, said = batch()
    assert status == 0
    assert f"The study could not be copied to '{home}'" in said
    left = [path for path in home.parent.rglob("journal.db") if path.read_text() == "new\n"]
    assert len(left) == 1, said
    # The next time it is where it belongs.
    mv.unlink()
    assert batch()[0] == 0
    assert (home / "journal.db").read_text() == "new\n" * 3
