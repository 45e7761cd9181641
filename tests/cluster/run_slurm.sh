#!/usr/bin/env bash
# A slice of the workflow on a real one-node Slurm through profiles/slurm, and again without it: the same bytes?
#
#   tests/cluster/run_slurm.sh [target ...]      default: the feature index of tests/cluster/config.yaml
#
# With TAD_CLUSTER_FAULTS=1 a running job is cancelled, and the node is drained and resumed, while the workflow runs.
# Exit status 0: equal; 77: no Slurm here and no way to install it; anything else: the failing step's.
# Needs root. Installs Debian's slurm-wlm and munge where they are absent, unless TAD_CLUSTER_INSTALL=0. Everything that
# is started lives in one scratch folder (own configuration, ports and sockets) and is stopped at the end. Only a link
# to the configuration lies outside for a while, as Snakemake takes SLURM_CONF away from its jobs.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ $# -gt 0 ] || set -- results/features/small/clips.h5

skip() { echo "skipped: $1"; exit 77; }
have() { command -v "$1" > /dev/null; }
export PATH=$PATH:/usr/sbin:/sbin
export PYTHONPATH=$root

[ "$(id -u)" = 0 ] || skip "a one-node Slurm is started as root here, and this is user $(id -un)"
"$python" -c 'import snakemake_executor_plugin_slurm' 2> /dev/null || skip "no snakemake-executor-plugin-slurm"
if ! { have slurmctld && have slurmd && have sbatch && have munged; }; then
    [ "${TAD_CLUSTER_INSTALL:-1}" = 1 ] || skip "Slurm is not installed (TAD_CLUSTER_INSTALL=0)"
    have apt-get || skip "Slurm is not installed and there is no apt-get"
    { timeout 60 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 120 \
        apt-get install -qq -y --no-install-recommends slurm-wlm munge; } > /dev/null 2>&1 \
        || skip "apt-get could not install slurm-wlm and munge"
fi

link=/etc/slurm/slurm.conf
[ ! -e $link ] || skip "$link is there: this machine has, or had, a Slurm of its own"

dir=$(mktemp -d /tmp/tad_slurm.XXXXXX)
conf=$dir/slurm.conf
stop() {
    status=$?
    [ $status = 0 ] || find "$dir" -name '*.log' -o -name slurm.out | xargs tail -n 20
    for name in slurmd slurmctld munged; do
        [ ! -s "$dir/$name.pid" ] || kill "$(cat "$dir/$name.pid")" 2> /dev/null || true
    done
    [ "$(readlink $link)" != "$conf" ] || rm -f $link
    sleep 0.5
    rm -rf "$dir" 2> /dev/null || { sleep 2; rm -rf "$dir"; }
    exit $status
}
trap stop EXIT
trap 'exit 130' INT TERM

# ── a copy of the workflow, so that an edit meanwhile does not part the two runs; four rendered videos, random weights ──
mkdir -p "$dir"/{slurm,local,state,spool,code}
for part in Snakefile rules envs profiles tad workflow_scripts; do
    cp -r "$root/$part" "$dir/code/"
done
root=$dir/code
export PYTHONPATH=$root
(cd "$root" && "$python" workflow_scripts/render_demo.py --out "$dir/slurm/data" --videos 4 --jobs 2 2> "$dir/render.log")
(cd "$root" && "$python" "$here/random_weights.py" "$dir/slurm/data/weights.safetensors")
cp "$here/config.yaml" "$dir/slurm/"
cp -r "$dir/slurm/." "$dir/local/"

# ── the cluster ──
chmod 755 "$dir"
(umask 077 && head -c 128 /dev/urandom > "$dir/munge.key")
munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
port=$("$python" -c 'import socket
pair = [socket.socket() for _ in range(2)]
[s.bind(("127.0.0.1", 0)) for s in pair]
print(*[s.getsockname()[1] for s in pair])')
sed -e "s|@HOST@|$(hostname -s)|g" -e "s|@DIR@|$dir|g" -e "s|@PORT@|${port% *}|" -e "s|@NODEPORT@|${port#* }|" \
    "$here/slurm.conf" > "$conf"
mkdir -p /etc/slurm
ln -sfn "$conf" $link
slurmctld
slurmd
for _ in $(seq 100); do
    ! sinfo -h -o '%P %T' 2> /dev/null | grep -q idle || break
    sleep 0.2
done
sinfo -h -o '%P %T' | grep -q '^gpu idle' || { echo "the node did not become idle"; sinfo; exit 1; }

# ── what happens on clusters ──
until_running() { # prints the number of a running job
    for _ in $(seq 600); do
        job=$(squeue -h -t R -o %A | head -n 1)
        [ -z "$job" ] || { echo "$job"; return; }
        sleep 0.2
    done
    return 1
}
inject() {
    job=$(until_running)
    scancel "$job"
    echo "cancelled: job $job" >> "$dir/faults"
    job=$(until_running)
    scontrol update "NodeName=$(hostname -s)" State=DRAIN Reason=test
    echo "drained: while job $job ran" >> "$dir/faults"
    sleep 10
    scontrol update "NodeName=$(hostname -s)" State=RESUME
    echo "resumed: after 10 s" >> "$dir/faults"
}
retries=0
if [ "${TAD_CLUSTER_FAULTS:-0}" = 1 ]; then
    retries=2
    inject & faults=$!
fi

# ── the same targets twice ──
start=$(date +%s)
(cd "$dir/slurm" && timeout "${TAD_CLUSTER_SECONDS:-170}" "$python" -m snakemake -s "$root/Snakefile" --profile "$root/profiles/slurm" \
    --slurm-init-seconds-before-status-checks 2 --latency-wait 10 --retries "$retries" -- "$@") > "$dir/slurm.out" 2>&1
if [ "$retries" -gt 0 ]; then
    wait $faults || { echo "the faults could not be injected"; exit 1; }
    cat "$dir/faults"
fi
echo "slurm: $(($(date +%s) - start)) s, jobs: $(grep -c 'has been submitted with SLURM jobid' "$dir/slurm.out")"
start=$(date +%s)
(cd "$dir/local" && "$python" -m snakemake -s "$root/Snakefile" --cores 8 --set-threads train=8 detect=8 pretrain=8 extract=8 -- \
    "$@") > "$dir/local.log" 2>&1
echo "local: $(($(date +%s) - start)) s"

for made in $(cd "$dir/local/results" && find . -type f -not -path '*/logs/*' -not -path '*/.kept/*' | sort); do
    cmp "$dir/slurm/results/$made" "$dir/local/results/$made"
    echo "equal: results/${made#./} ($(stat -c %s "$dir/local/results/$made") bytes)"
done
