#!/bin/sh
# Runs the tests that need no torch on every Python >= 3.10 found here, with the pins of
# constraints.txt; one environment each under build/, made once. Flags and folders of tests are
# passed on to pytest.
set -eu

envs=build/compat

candidates() {
    for minor in 10 11 12 13 14; do
        command -v "python3.$minor" || true
        for root in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*; do
            [ ! -x "$root/bin/python" ] || echo "$root/bin/python"
        done
    done
}

# A pyenv shim is there also for versions that are not switched on: only what runs counts.
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

done_with=' '
failed=''
for python in $(candidates); do
    version=$(version_of "$python") || continue
    case $done_with in *" $version "*) continue ;; esac
    done_with="$done_with$version "
    env=$envs/$version
    if [ ! -e "$env/.ready" ] || [ constraints.txt -nt "$env/.ready" ]; then
        echo "compat: installing for Python $version into $env"
        mkdir -p "$envs"
        "$python" -m venv --clear "$env"
        # Every pin, not only those that the tests import: an unsolvable set must show here. Opacus
        # would bring torch along.
        sed '/^torch==/d; /^opacus==/d' constraints.txt >"$env/requirements.txt"
        "$env/bin/python" -m pip --disable-pip-version-check install --quiet -r "$env/requirements.txt"
        touch "$env/.ready"
    fi
    echo "compat: Python $version"
    # tests/e2e starts peers, which need torch.
    PYTHONPATH=src:tools "$env/bin/python" -m pytest --quiet --hypothesis-profile=ci \
        -p no:cacheprovider -p without_torch --ignore tests/e2e "$@" || failed="$failed $version"
done
[ "$done_with" != ' ' ] || { echo "compat: no Python >= 3.10 found" >&2; exit 2; }
[ -z "$failed" ] || { echo "compat: failed on$failed" >&2; exit 1; }
echo "compat: passed on$done_with"
