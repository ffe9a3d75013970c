#!/bin/sh
# Makes the virtual environment that `make demo` and `make test` run in: idempotent, without root.
#
#   tools/setup_venv.sh VENV REQUIREMENT        e.g.  tools/setup_venv.sh .venv '.[dev]'
#
# Environment:
#   PYTHON        the interpreter to build on                           (default: python3)
#   SYSTEM_TORCH  auto: use the torch that this machine brings, if any;
#                 no:   always install torch into VENV                  (default: auto)
#
# A torch outside VENV is never replaced: it and what it needs are taken as they are.
set -eu

venv=$1
requirement=$2
python=${PYTHON:-python3}
system_torch=${SYSTEM_TORCH:-auto}

die() {
    echo "setup: $*" >&2
    exit 2
}

say() { echo "setup: $*"; }

# An interpreter older than this syntax must still get to the message.
version_check='import sys; sys.exit(sys.version_info < (3, 10))'

# Where torch comes from, as seen from inside VENV: own, system, broken or none.
torch_origin='
import importlib.util, os, sys
spec = importlib.util.find_spec("torch")
if spec is None or spec.origin is None:
    print("none")
elif os.path.realpath(spec.origin).startswith(os.path.realpath(sys.prefix) + os.sep):
    print("own")
else:
    try:
        import torch
    except Exception as exc:
        sys.stderr.write("%s: %s\n" % (type(exc).__name__, exc))
        print("broken")
    else:
        print("system")
'

case $system_torch in auto | no) ;; *) die "SYSTEM_TORCH must be auto or no, got $system_torch" ;; esac

if [ ! -x "$venv/bin/python" ]; then
    command -v "$python" >/dev/null 2>&1 || die "$python: not found; install Python >= 3.10, or set PYTHON=/path/to/python3"
    "$python" -c "$version_check" ||
        die "$python is $("$python" -V 2>&1), Python >= 3.10 is needed; set PYTHON=/path/to/a/newer/python3"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$python has no venv module; install it (Debian, Ubuntu: sudo apt install python3-venv)"
    say "creating $venv with $("$python" -V 2>&1)"
    if [ "$system_torch" = auto ]; then
        # With the system's packages in sight and nothing else: does this machine bring torch?
        "$python" -m venv --without-pip --system-site-packages "$venv"
        origin=$("$venv/bin/python" -c "$torch_origin" 2>"$venv/torch-error") || origin=none
        case $origin in
        system) "$python" -m venv --system-site-packages "$venv" ;;
        broken) reason=$(cat "$venv/torch-error"); rm -rf "$venv"
            die "this machine's torch cannot be imported ($reason); mend it, or let a second torch be installed into $venv with SYSTEM_TORCH=no" ;;
        *) "$python" -m venv --clear "$venv" ;;
        esac
    else
        "$python" -m venv "$venv"
    fi
fi

py=$venv/bin/python
"$py" -c "$version_check" || die "$venv is of $("$py" -V 2>&1), Python >= 3.10 is needed; remove $venv and try again"
"$py" -m pip --version >/dev/null 2>&1 || "$py" -m ensurepip --default-pip >/dev/null 2>&1 ||
    die "$venv has no pip and none can be put there; remove $venv and try again"

pip_install() { PIP_DISABLE_PIP_VERSION_CHECK=1 "$py" -m pip install "$@"; }

constraints=constraints.txt
case $("$py" -c "$torch_origin" 2>/dev/null) in
system)
    # All of the block "# torch:" of constraints.txt goes; what is there now is pinned instead.
    constraints=$venv/constraints.txt
    sed '/^# torch:/,/^$/d' constraints.txt >"$constraints"
    "$py" -c '
import importlib.metadata as metadata
for name in ("torch", "numpy"):
    try:
        print("%s==%s" % (name, metadata.version(name)))
    except metadata.PackageNotFoundError:
        pass
' >>"$constraints"
    say "using this machine's own torch $("$py" -c 'import torch; print(torch.__version__)')"
    ;;
own) pip_install --quiet -c "$constraints" torch ;;
*)
    [ ! -e /etc/nv_tegra_release ] ||
        say "this Jetson has no torch of NVIDIA's: training will run on the CPU; to use the GPU, install NVIDIA's torch for $python, remove $venv and try again"
    say "installing torch; on Linux it brings its CUDA libraries: several GB, some minutes"
    say "(no GPU here? stop, set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds and try again)"
    pip_install -c "$constraints" torch
    ;;
esac

say "installing $requirement and what it needs"
pip_install --quiet -c "$constraints" -e "$requirement"
say "$venv is ready"
