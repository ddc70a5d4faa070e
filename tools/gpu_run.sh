#!/usr/bin/env bash
# An item of tools/gpu_plan.md on a bare machine with a GPU and without network, in one call of at most ten minutes:
#     bash tools/gpu_run.sh ITEM [FOLDER]
# DEVICE=cpu PRESET=tiny tries it where there is no GPU. FOLDER receives at most eight small files.
set -u
item=$1 out=${2:-${OUT:-gpu_out}} device=${DEVICE:-cuda} preset=${PRESET:-}
mkdir -p "$out" && runs=$(mktemp -d) && export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD || exit
if compgen -G '.whl/*.whl' > /dev/null; then
    site=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl || exit
    PYTHONPATH=$site:$PWD
fi
pids=() worst=0
train() { # NAME ARGUMENTS..., in the background
    name=$1 && shift
    timeout -k 20 "${LIMIT:-480}" python3 experiments/run_svi.py --device "$device" --run-dir "$runs/$name" \
        --preset "${preset:-default}" "$@" > "$runs/$name.log" 2>&1 &
    pids+=($!)
}
case $item in
1)
    command -v nvidia-smi > /dev/null && nvidia-smi > "$out/smi.txt"
    python3 tools/gpu_check.py --out "$out" --device "$device" --budget 420 ${preset:+--tiny} 2> "$out/check.err" \
        || { worst=$? && tail -n 5 "$out/check.err"; }
    ;;
2) for guide in iodine monet mulmon; do for lnms in lnms no-lnms; do train $guide-$lnms --guide $guide --$lnms; done; done ;;
3)
    paper="--dataset solids --set data.image_size=64 --set training.precision=bfloat16"
    [ -n "$preset" ] || { preset=paper && paper="$paper --batch-size 32 --set training.evaluate_every=1000"; }
    for guide in iodine monet mulmon; do train $guide-paper --guide $guide $paper; done
    ;;
*) echo "ITEM: expected one of tools/gpu_plan.md, got $item" >&2 && exit 2 ;;
esac
for pid in "${pids[@]}"; do wait "$pid" || worst=$?; done
tail -n 3 "$runs"/*.log "$runs"/*/metrics.csv 2> /dev/null | cut -c1-400
[ "$item" = 1 ] || tar czf "$out/runs-$item.tgz" -C "$runs" --exclude='events*' --exclude='checkpoint.pt' .
exit "$worst"
