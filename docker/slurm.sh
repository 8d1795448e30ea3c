#!/bin/bash
#SBATCH --job-name=gru-window
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=4
#SBATCH --time=4:00:00
#SBATCH --exclusive
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=/home/me/gru-window-%j.log

# Study gru-window. This script may be sent again: it goes on with the study where that stands.
set -u
name=gru-window
studies="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/hypertune-${USER:-$(id -un)}/studies"
results=/home/me/studies

# In a folder that everybody can write, as /tmp is, nothing of the way to the studies may be somebody
# else's: who made it could put another folder in its place.
ours_alone() {
    local path=$1 owner mode kind above
    while [ "$path" != / ]; do
        above=$(dirname "$path")
        read -r owner kind < <(stat -c '%u %F' "$path") || return 1
        mode=$(stat -L -c '%a' "$above") || return 1
        if ((8#$mode & 2)); then
            ((8#$mode & 8#1000)) || { echo "Everybody can replace '$path'." >&2; return 1; }
            [ "$owner" = 0 ] || [ "$owner" = "$(id -u)" ] ||
                { echo "'$path' ($kind) belongs to somebody else." >&2; return 1; }
        fi
        path=$above
    done
}
studies=$(realpath -m -s "$studies")
(umask 077 && mkdir -p "$studies") && [ -O "$studies" ] && ours_alone "$studies" &&
    studies=$(realpath "$studies") && ours_alone "$studies" ||
    { echo "'$studies' cannot be the studies' folder: name another with --studies-dir." >&2; exit 1; }

# Ray listens on all interfaces of its nodes: it asks for the token in this file.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/home/me/.ray/auth_token RAY_USAGE_STATS_ENABLED=0
export PATH=/shared/venv/bin:"$PATH"
unset RAY_ADDRESS
scratch=$(mktemp -d /tmp/hypertune-XXXXXX) || exit 1
export HYPERTUNE_PID_FILE="$scratch/driver.pid"

# SLURM tells this shell alone, which tells the driver alone: Ray must live while that ends.
again=no
tell_driver() {
    if [ -s "$HYPERTUNE_PID_FILE" ]; then
        kill -TERM "$(cat "$HYPERTUNE_PID_FILE")"
    else # it has not begun, or no step is around it
        kill -TERM "$steps"
    fi
}

export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=8 \
    ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus=8 --num-gpus=4 --include-dashboard=false -- \
    bash -c 'echo $$ > "$HYPERTUNE_PID_FILE"; exec "$@"' driver \
    /shared/venv/bin/python -m hypertune.cli run --space gru_window --gpus-per-trial 0.5 --storage /shared/hypertune \
    --name "$name" --or-resume --studies-dir "$studies" --address "$head:$port" &
steps=$!
trap 'again=yes; tell_driver' TERM # before the wall limit: the job is queued again
trap 'again=no; tell_driver' USR1 # the end that its owner wants
wait "$steps"
status=$?
while kill -0 "$steps" 2> /dev/null; do # a trap ends a wait
    wait "$steps"
    status=$?
done
rm -rf "$scratch"

# What is there to read goes home; the journal that is searched with stays on the local disk. What
# was there and is not an earlier copy, or was gone on with since, is kept. At no moment is there
# neither the copy of before nor the new one.
home="$results/$name" new="$results/.$name.new" old="$results/.$name.old"
bring_home() {
    mkdir -p "$results" || return 1
    if [ -e "$old" ] && [ ! -e "$home" ]; then # this script was ended between two of its steps
        mv -T "$old" "$home" || return 1
    fi
    rm -rf "$new" "$old"
    cp -R "$studies/$name" "$new" && touch "$new/batch-copy" || return 1
    if [ -e "$home" ] && { [ ! -e "$home/batch-copy" ] || [ "$home/journal.db" -nt "$home/batch-copy" ]; }; then
        local kept="$home.before-$SLURM_JOB_ID"
        while [ -e "$kept" ]; do kept="$kept-"; done
        mv -T "$home" "$kept" || return 1
        echo "'$home' was there before: it is '$kept' now."
    fi
    if [ -e "$home" ]; then
        mv -T "$home" "$old" || return 1
    fi
    if ! mv -T "$new" "$home"; then
        [ ! -e "$old" ] || mv -T "$old" "$home"
        return 1
    fi
    rm -rf "$old"
}
if [ -e "$studies/$name/journal.db" ] && ! bring_home; then
    rm -rf "$new"
    echo "The study could not be copied to '$home'; it is in '$studies/$name' on $(hostname)." >&2
fi

# A signal ended the search (130), or the wait for Ray (143): there is more to do. A job that was
# cancelled is not queued again.
if [ "$again" = yes ] && { [ "$status" = 130 ] || [ "$status" = 143 ]; }; then
    case $(scontrol show job --oneliner "$SLURM_JOB_ID") in
        *JobState=RUNNING*) scontrol requeue "$SLURM_JOB_ID" ;;
    esac
fi
exit "$status"
