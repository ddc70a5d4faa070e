#!/usr/bin/env bash
# Wheels for a machine with Python 3.12 and torch but without network, into .whl/ (ignored by git); for tools/gpu_run.sh.
set -eu
cd "$(dirname "$0")/.."
packages="arviz arviz-base arviz-plots arviz-stats dacite docstring-parser embreex google-crc32c h5netcdf pyro-api pyro-ppl trimesh
typeguard tyro xarray-einstats"
platforms=$(printf -- '--platform %s ' manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64)
rm -rf .whl
# shellcheck disable=SC2086
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $platforms -d .whl $packages
du -sh .whl
