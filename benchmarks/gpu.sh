#!/usr/bin/env bash
# All that needs an NVIDIA GPU, in one go, and kept: bash benchmarks/gpu.sh [FOLDER]
#
# Says first what is missing, and then stops. Otherwise every step is run, whatever the one before it said, and what it
# prints is kept in FOLDER (gpu-DATE unless given). PYTHON names an interpreter that has torch and an extra of ours,
# cuda12 or cuda13 (docs/install.md). Tests take about two minutes, benchmarks about five.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} folder=${1:-gpu-$(date +%Y-%m-%d-%H%M)} failed=0
mkdir -p "$folder"

# Run a step for at most so many seconds; keep what it prints.
step() {
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$@" 2>&1 | tee "$folder/$name.txt" | tail -n 15
    local code=${PIPESTATUS[0]}
    [ "$code" = 0 ] || { echo "== $name: FAILED ($code)"; failed=1; }
    return "$code"
}

step driver 60 nvidia-smi || exit 1
step doctor 60 "$python" -m ssd_mining doctor || exit 1
step check 120 "$python" -m benchmarks.cuda --check || exit 1
step tests 420 "$python" -m pytest -q -n 0 -p no:cacheprovider -m gpu
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck; do
        step "$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$python" -m pytest -q -n 0 -p no:cacheprovider tests/device/test_multibox_on_a_gpu.py -k capture
    done
else
    echo "== not run: compute-sanitizer is not on the path"
fi
step benchmarks 600 "$python" -m benchmarks.cuda
[ ! -e benchmarks/cuda.json ] || cp benchmarks/cuda.json "$folder"
echo "== all that was printed is in $folder"
exit "$failed"
