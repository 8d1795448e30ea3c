"""A SLURM of one machine and one job, which really runs scripts: sbatch, scontrol and srun."""

import os
import subprocess
import sys
from pathlib import Path

JOB = "7"
"""The number of the job."""
_SBATCH = """#!/bin/bash
cp "${@: -1}" "$SLURM_STAND_IN/script.sh"
setsid {python} {me} "$SLURM_STAND_IN" > /dev/null 2>&1 < /dev/null &
echo {job}
"""
_SCONTROL = """#!/bin/bash
case "$1 $2" in
    "show hostnames") echo 127.0.0.1 ;;
    "show job") echo "JobId={job} JobState=$(cat "$SLURM_STAND_IN/state") Requeue=1" ;;
    "requeue {job}") touch "$SLURM_STAND_IN/requeue" ;;
    *) exit 1 ;;
esac
"""
_SRUN = """#!/bin/bash
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""


def stand_in(folder: Path) -> dict[str, str]:
    """Make the commands; return the environment that finds them."""
    commands = folder / "bin"
    commands.mkdir(parents=True)
    for name, text in {"sbatch": _SBATCH, "scontrol": _SCONTROL, "srun": _SRUN}.items():
        path = commands / name
        text = text.replace("{python}", sys.executable).replace("{me}", __file__)
        path.write_text(text.replace("{job}", JOB))
        path.chmod(0o755)
    return {"SLURM_STAND_IN": str(folder), "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}


def main(folder: Path) -> None:
    """Run the script, and run it again as often as it was queued again."""
    script = (folder / "script.sh").read_text()
    (log,) = [line for line in script.splitlines() if line.startswith("#SBATCH --output=")]
    (nodes,) = [line for line in script.splitlines() if line.startswith("#SBATCH --nodes=")]
    output = Path(log.partition("=")[2].replace("%j", JOB))
    n = 0
    while True:
        (folder / "requeue").unlink(missing_ok=True)
        (folder / "state").write_text("RUNNING")
        env = {
            **os.environ,
            "SLURM_JOB_ID": JOB,
            "SLURM_JOB_NUM_NODES": nodes.partition("=")[2],
            "SLURM_JOB_NODELIST": "here",
            "SLURM_RESTART_COUNT": str(n),
        }
        with output.open("a") as out:  # as with --open-mode=append
            shell = subprocess.Popen(
                ["bash", str(folder / "script.sh")], stdout=out, stderr=out, env=env
            )
        (folder / "shell.pid").write_text(str(shell.pid))
        status = shell.wait()
        with (folder / "ended").open("a") as ended:
            ended.write(f"{status}\n")
        if not (folder / "requeue").exists():
            (folder / "state").write_text("COMPLETED")
            return
        n += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
