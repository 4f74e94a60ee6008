#!/bin/sh
# Installs Locci Cloud on this host, and makes the host a node of a fleet.
#
#   curl -fsSL https://releases.example.net/locci/install.sh |
#     LOCCI_SERVER=https://control.example.net:7443 LOCCI_TOKEN=locci1.… sh
#
# Every option is also a variable: --server is LOCCI_SERVER, --with-docker is LOCCI_WITH_DOCKER=1, and so on.
# Run it again at any time: what is in place stays, what is missing is put there.
set -eu

RELEASE_URL="" # where the release is published; written by tools/packages

usage() {
  cat <<'USAGE'
usage: install.sh [install] [OPTIONS]    install, join, start
       install.sh uninstall [--purge]    take everything off; --purge also state, identity and settings

  --server URL        the control plane, as in https://control.example.net:7443
  --token TOKEN       a join token, from `locci tokens create`; better as LOCCI_TOKEN, which `ps` does not show
  --roles LIST        edge, dns or edge,dns (the default is edge); what the token allows
  --name NAME         the node's id; the host's name by default
  --address ADDRESS   where clients reach this host; several with commas; found out by default
  --label KEY=VALUE   labels of the node; several with commas
  --from URL|DIR      the release: a folder or an address with SHA256SUMS in it; this file's own folder by default
  --version VERSION   which one; the release's VERSION by default
  --sha256 SUM        what SHA256SUMS itself must sum up to: then the place it comes from need not be trusted
  --with-docker       install Docker Engine and Python from the distribution when they are missing
  --no-start          install and join, but start nothing
  --root DIR          install into the root file system in DIR (images); joins and starts nothing
USAGE
}

say() { printf 'locci: %s\n' "$*" >&2; }
die() {
  printf 'locci: error: %s\n' "$1" >&2
  [ -z "${2:-}" ] || printf 'locci: hint: %s\n' "$2" >&2
  exit "${3:-1}"
}
have() { command -v "$1" >/dev/null 2>&1; }

options() {
  action=install purge="" from="${LOCCI_FROM:-}" version="${LOCCI_VERSION:-}" pin="${LOCCI_SHA256:-}"
  server="${LOCCI_SERVER:-}" token="${LOCCI_TOKEN:-}" roles="${LOCCI_ROLES:-edge}" name="${LOCCI_NAME:-}"
  address="${LOCCI_ADDRESS:-}" label="${LOCCI_LABEL:-}" with_docker="${LOCCI_WITH_DOCKER:-}"
  no_start="${LOCCI_NO_START:-}" root="${LOCCI_ROOT:-}"
  while [ $# -gt 0 ]; do
    case "$1" in
      install | uninstall) action=$1 ;;
      --purge) purge=1 ;;
      --with-docker) with_docker=1 ;;
      --no-start) no_start=1 ;;
      -h | --help) usage && exit 0 ;;
      --server | --token | --roles | --name | --address | --label | --from | --version | --sha256 | --root)
        [ $# -ge 2 ] || die "$1 needs a value" "" 2
        case "$1" in
          --server) server=$2 ;; --token) token=$2 ;; --roles) roles=$2 ;; --name) name=$2 ;;
          --address) address=$2 ;; --label) label=$2 ;; --from) from=$2 ;; --version) version=$2 ;;
          --sha256) pin=$2 ;; --root) root=${2%/} ;;
        esac
        shift ;;
      *) usage >&2 && die "unknown option: $1" "" 2 ;;
    esac
    shift
  done
  prefix="$root/opt/locci"
  for role in $(words "$roles"); do
    case "$role" in edge | dns) ;; *) die "--roles: $role is neither edge nor dns" "" 2 ;; esac
  done
  case "$server$token" in *[!A-Za-z0-9._:/=+@\[\]-]*) die "--server and --token are one word each" "" 2 ;; esac
  { [ -z "$token" ] && [ -z "$server" ]; } || { [ -n "$token" ] && [ -n "$server" ]; } ||
    die "--server and --token belong together" "make a token with: locci tokens create --region REGION --role edge" 2
}

words() { printf '%s\n' "$1" | tr ',' ' '; }
plays() { case ",$roles," in *",$1,"*) true ;; *) false ;; esac }
booted() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# ---- what the host must bring

check_host() {
  [ "$(uname -s)" = Linux ] || die "this is $(uname -s); agents run on Linux" "" 3
  [ "$(id -u)" = 0 ] || die "not root: units, ports below 1024 and Docker Engine need it" "put sudo before sh" 3
  machine=$(uname -m)
  case "$machine" in
    x86_64 | aarch64) ;;
    *) die "no release is built for $machine" "build one there: make packages" 3 ;;
  esac
  distribution=unknown
  # shellcheck disable=SC1091
  [ ! -r "$root/etc/os-release" ] || distribution=$(. "$root/etc/os-release" && printf '%s' "${PRETTY_NAME:-$ID}")
  for tool in tar sha256sum mktemp readlink; do
    have "$tool" || die "$tool is missing" "install coreutils and tar"
  done
  booted || [ -n "$root" ] || say "systemd does not run here: nothing is started, the commands to run are shown at the end"
  say "$distribution on $machine"
}

packages() { # PACKAGE...: by the distribution's own means
  if have apt-get; then
    apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  elif have dnf; then dnf install -y -q "$@"
  elif have yum; then yum install -y -q "$@"
  elif have zypper; then zypper --quiet install -y "$@"
  else die "none of apt-get, dnf, yum, zypper is here" "install by hand: $*"; fi
}

check_python() { # the version that the release was built for
  python=$1
  [ ! -x "$root/usr/bin/python$python" ] || return 0
  [ -n "$with_docker" ] && [ -z "$root" ] && packages "python$python"
  [ -x "$root/usr/bin/python$python" ] ||
    die "/usr/bin/python$python is missing; the release is built for it" "install the package python$python, or use --with-docker"
}

engine_answers() {
  [ -S /var/run/docker.sock ] || return 1
  "$prefix/current/bin/python3" - <<'PYTHON' 2>/dev/null
import http.client, socket
link = http.client.HTTPConnection("docker", timeout=5)
link.sock = socket.socket(socket.AF_UNIX)
link.sock.settimeout(5)
link.sock.connect("/var/run/docker.sock")
link.request("GET", "/_ping")
raise SystemExit(link.getresponse().status != 200)
PYTHON
}

check_engine() {
  engine_answers && return 0
  if [ -n "$with_docker" ]; then
    say "installing Docker Engine from the distribution"
    if have apt-get; then packages docker.io; else packages docker || packages moby-engine; fi
    ! booted || systemctl enable --now --quiet docker
    waited=0
    until engine_answers || [ "$waited" -ge 30 ]; do sleep 1 && waited=$((waited + 1)); done
    engine_answers && return 0
  fi
  die "Docker Engine does not answer at /var/run/docker.sock" "install it, or let this script: --with-docker"
}

# ---- the release

fetch() { # NAME TARGET
  case "$from" in
    http://* | https://*)
      if have curl; then curl -fsSL --retry 3 --connect-timeout 10 -o "$2" "$from/$1"
      elif have wget; then wget -q -O "$2" "$from/$1"
      else die "neither curl nor wget is here" "install one, or use the air-gapped bundle"; fi ||
        die "$from/$1 could not be fetched" "see if it is there, and that this host reaches it" ;;
    *) cp "$from/$1" "$2" 2>/dev/null || die "$from/$1 is not there" "--from names a folder or an address with SHA256SUMS in it" ;;
  esac
}

verify() { # FILE NAME
  wanted=$(awk -v name="$2" '$2 == name { print $1 }' "$work/SHA256SUMS")
  [ -n "$wanted" ] || die "the release has no $2" "$(awk '{ print $2 }' "$work/SHA256SUMS" | tr '\n' ' ')"
  [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$wanted" ] || die "$2 is not what SHA256SUMS says: nothing was installed" "fetch it again; if that happens twice, the release was tampered with"
}

find_release() {
  here=$(dirname -- "$0")
  if [ -z "$from" ] && [ -f "$here/SHA256SUMS" ]; then from=$here; fi
  from=${from:-$RELEASE_URL}
  from=${from%/}
  [ -n "$from" ] || die "where is the release?" "--from URL or --from DIR" 2
  fetch SHA256SUMS "$work/SHA256SUMS"
  if [ -n "$pin" ]; then
    [ "$(sha256sum "$work/SHA256SUMS" | cut -d' ' -f1)" = "$pin" ] || die "SHA256SUMS of $from is not the one that --sha256 names" "nothing was installed"
  fi
  if [ -z "$version" ]; then
    fetch VERSION "$work/VERSION"
    verify "$work/VERSION" VERSION
    version=$(cat "$work/VERSION")
  fi
  case "$version" in *[!A-Za-z0-9.+~-]* | "" | .*) die "$version is no version" "" 2 ;; esac
  archive=$(awk -v stem="locci-$version-linux-$machine-py" 'index($2, stem) == 1 && /[.]tar[.]gz$/ { print $2; exit }' "$work/SHA256SUMS")
  [ -n "$archive" ] || die "$from has no version $version for $machine" "it has: $(awk '/[.]tar[.]gz$/ { print $2 }' "$work/SHA256SUMS" | tr '\n' ' ')"
  python=${archive##*-py} && python=${python%.tar.gz}
}

install_files() {
  if [ -e "$prefix/$version/share/VERSION" ]; then
    say "version $version is in place"
  else
    say "fetching $archive"
    fetch "$archive" "$work/$archive"
    verify "$work/$archive" "$archive"
    mkdir -p "$prefix"
    rm -rf "$prefix/.partial"
    mkdir "$prefix/.partial"
    tar -xzf "$work/$archive" -C "$prefix/.partial" --no-same-owner
    [ -x "$prefix/.partial/$version/bin/locci-agent" ] || die "$archive holds no version $version"
    mv "$prefix/.partial/$version" "$prefix/$version"
    touch "$prefix/$version"
    rmdir "$prefix/.partial"
  fi
  before=$(readlink "$prefix/current" 2>/dev/null || true)
  if [ -n "$no_start" ] && [ -n "$before" ] && [ -e "$prefix/$before/share/VERSION" ]; then
    [ "$before" = "$version" ] || say "version $before goes on; to try the new one: locci-agent upgrade $version"
    beside=1
    prune
    return 0
  fi
  # One rename: whoever looks sees the old version or the new one.
  ln -sfn "$version" "$prefix/.current.new"
  mv -T "$prefix/.current.new" "$prefix/current"
  prune
}

prune() { # unattended upgrades must not fill the disk: of what is neither old nor new, the three put here last stay
  kept=0
  for folder in $(ls -1dt "$prefix"/*/); do
    folder=${folder%/}
    other=${folder##*/}
    case "$other" in current | "$version" | "$before") continue ;; esac
    [ -e "$folder/share/VERSION" ] || continue
    kept=$((kept + 1))
    [ "$kept" -gt 3 ] || continue
    # A program that was not restarted since may still load parts of it.
    ! grep -qs "[[:space:]]$folder/" /proc/[0-9]*/maps || continue
    rm -rf "$folder"
    say "version $other, which nothing runs any more, is removed"
  done
}

install_units() {
  units="$root/etc/systemd/system"
  mkdir -p "$units" "$root/usr/local/bin" "$root/etc/locci"
  for unit in "$prefix/$version"/share/systemd/*.service; do
    cmp -s "$unit" "$units/${unit##*/}" || cp "$unit" "$units/${unit##*/}"
  done
  for program in "$prefix/$version"/bin/locci*; do
    ln -sfn "/opt/locci/current/bin/${program##*/}" "$root/usr/local/bin/${program##*/}"
  done
  for program in agent edge dns; do
    settings="$root/etc/locci/$program.toml"
    [ -e "$settings" ] || printf '# Settings of locci-%s; without any, the defaults: /opt/locci/current/share/doc\n' "$program" >"$settings"
  done
  # Where this host looks for the versions that the control plane names.
  case "$from" in
    http*) printf '%s\n' "$from" >"$root/etc/locci/release-source" ;;
  esac
}

# ---- joining and starting

join() {
  if [ -e /var/lib/locci/identity/identity.json ]; then
    say "this host is a node already; to move it to another fleet, uninstall --purge first"
    return 0
  fi
  if [ -z "$token" ]; then
    say "no token, so this host joins no fleet yet"
    return 0
  fi
  if plays edge; then set -- locci-agent join; else set -- locci-dns join; fi
  program=$1
  set -- "$@" --server "$server" --token "$token"
  [ -z "$name" ] || set -- "$@" --name "$name"
  for one in $(words "$address"); do set -- "$@" --address "$one"; done
  for one in $(words "$label"); do set -- "$@" --label "$one"; done
  shift
  "$prefix/current/bin/$program" "$@" || die "this host could not join" "a token works once and for an hour: make another with locci tokens create"
}

units_wanted() {
  if plays edge; then printf 'locci-agent.service locci-edge.service '; fi
  if plays dns; then printf 'locci-dns.service'; fi
}

start() {
  [ -e /var/lib/locci/identity/identity.json ] || return 0
  systemctl daemon-reload
  for unit in $(units_wanted); do
    systemctl enable --quiet "$unit"
    if [ -n "$before" ] && [ "$before" != "$version" ] && systemctl is-active --quiet "$unit"; then
      # The edge takes the new version without a dropped connection.
      case "$unit" in locci-edge* | locci-dns*) systemctl reload-or-restart "$unit" ;; *) systemctl restart "$unit" ;; esac
    else
      systemctl start "$unit"
    fi
  done
}

next_steps() {
  if [ -n "$root" ]; then
    say "version $version is in $root; on its first boot run: locci-agent join, then systemctl enable --now $(units_wanted)"
  elif [ ! -e /var/lib/locci/identity/identity.json ]; then
    say "version $version is installed. Next, join a fleet:"
    say "  LOCCI_SERVER=https://CONTROL-PLANE:7443 LOCCI_TOKEN=… sh install.sh"
  elif [ -n "$no_start" ] || ! booted; then
    say "version $version is installed and joined. Next, start, by whatever keeps programs running here:"
    ! plays edge || say "  locci-agent run --config /etc/locci/agent.toml     locci-edge run --config /etc/locci/edge.toml"
    ! plays dns || say "  locci-dns run --config /etc/locci/dns.toml"
  else
    say "version $version runs. Next:"
    ! plays edge || say "  locci-agent status      what runs here, and whether the control plane is connected"
    ! plays edge || say "  locci-agent doctor      what is wrong here, found without the control plane"
    ! plays dns || say "  locci-dns status        what the DNS server knows"
    say "  journalctl -fu 'locci-*'"
    say "  locci nodes ls          where you operate: this host is READY there"
  fi
}

do_install() {
  check_host
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  find_release
  check_python "$python"
  beside=""
  install_files
  [ -z "$beside" ] || return 0
  install_units
  if [ -z "$root" ]; then
    "$prefix/current/bin/locci-agent" --help >/dev/null || die "the installed programs do not run" "python$python may be broken here"
    if plays edge; then check_engine; fi
    join
    if booted && [ -z "$no_start" ]; then start; fi
  fi
  next_steps
}

do_uninstall() {
  [ "$(id -u)" = 0 ] || die "not root" "put sudo before sh" 3
  if [ -z "$root" ] && have dpkg-query && dpkg-query -W locci >/dev/null 2>&1; then
    die "the Debian package locci is installed" "apt-get remove locci, or apt-get purge locci"
  fi
  for unit in locci-agent locci-edge locci-dns locci-server; do
    ! booted || systemctl disable --now --quiet "$unit.service" 2>/dev/null || true
    rm -f "$root/etc/systemd/system/$unit.service"
  done
  ! booted || systemctl daemon-reload
  for link in "$root"/usr/local/bin/locci*; do
    case "$(readlink "$link" 2>/dev/null)" in /opt/locci/current/*) rm -f "$link" ;; esac
  done
  if [ -n "$purge" ]; then
    if [ -z "$root" ] && have docker; then
      containers=$(docker ps -aq --filter label=dev.locci.node 2>/dev/null || true)
      # shellcheck disable=SC2086
      [ -z "$containers" ] || docker rm -fv $containers >/dev/null
    fi
    rm -rf "$root/var/lib/locci" "$root/etc/locci"
  fi
  rm -rf "$prefix"
  if [ -n "$purge" ]; then say "everything is off this host"
  else say "the programs are off this host; containers go on running, state and settings are kept: uninstall --purge removes them"; fi
}

main() {
  options "$@"
  case "$action" in install) do_install ;; uninstall) do_uninstall ;; esac
}

# All of it is read before anything is done: a download cut short does nothing.
main "$@"
