# Functions that several test scripts share: they install real clients, start bearerd and servers whose tokens rotate
# and are revoked, run the clients through bearerd and report the results.
#
# Sourced from the root of the repository with these set:
#
#     suite       the directory of the script, for messages
#     lifetime    the lifetime of an access token in seconds
#     seconds     how long the clients run, in seconds
#     keep        the directory where configuration, logs and outputs are kept, or empty
#     credential_lines    further lines for the credential; may be unset
#     extra_roots         further certificate files to trust, in TOML syntax; may be unset
#
# The servers are one process. It takes `--lifetime SECONDS --files DIR --out DIR`, writes ca.pem and servers.json
# into the latter, prints a line that begins with `ready`, and exits when its standard input closes. servers.json has
# `https_authority` (the API), `token_url`, `client_id`, `client_secret`, `refresh_token` and `control_url`, where
# GET /stats returns counts and POST /revoke revokes all valid access tokens. With a token the API serves
# GET /hello?n=N, which describes the request, POST /echo, and the files of the directory under /files/.
#
# The API speaks https. An application that cannot do TLS sends `http://` to its host and port, and bearerd upgrades
# it. `https://` goes through CONNECT, and bearerd intercepts it with its CA.

set -m # each background job has its own process group, so the script can end it with its children

readonly programs=tests/clients
readonly profile=${BEARERD_PROFILE:-dev}
readonly target=${CARGO_TARGET_DIR:-target}
readonly tools=$PWD/target/clients-tools
readonly clients=(curl wget requests httpx urllib node-fetch node-https java git)

say() { printf '%s\n' "$*"; }
die() { say "$suite/run: $*" >&2; exit 1; }

# ---- clean-up ---------------------------------------------------------------------------------------

scratch=$(mktemp -d)
readonly scratch

cleanup() {
    local status=$? group
    trap - EXIT
    trap '' INT TERM
    for group in $(jobs -p); do kill -TERM -- "-$group" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [[ -n $keep ]]; then
        mkdir -p "$keep" && cp -R "$scratch"/. "$keep" || true
    fi
    rm -rf "$scratch"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- the clients -----------------------------------------------------------------------------------

have() { command -v "$1" >/dev/null 2>&1; }

apt_updated=
apt_install() {
    if [[ $(id -u) != 0 ]] || ! have apt-get; then
        die "missing: $*; install it, or run this as root on Debian"
    fi
    say "installing $*"
    if [[ -z $apt_updated ]]; then
        apt-get update -qq >"$scratch/apt.log" 2>&1 || true
        apt_updated=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        >>"$scratch/apt.log" 2>&1 || cannot_install "$*" "$scratch/apt.log"
}

cannot_install() { # WHAT LOG
    tail -n 20 "$2" | sed -E 's#https?://[^/ ]+#…#g' >&2
    die "cannot install $1"
}

java_is_recent() {
    local version
    version=$(javac -version 2>&1 | sed -nE 's/^javac ([0-9]+).*/\1/p') || return 1
    [[ -n $version ]] && ((version >= 17))
}

install_missing_clients() {
    local missing=()
    have curl || missing+=(curl)
    have wget || missing+=(wget)
    have git || missing+=(git)
    have python3 || missing+=(python3)
    have node || missing+=(nodejs)
    have java && have javac && have keytool && java_is_recent || missing+=(default-jdk-headless)
    [[ -e /etc/ssl/certs/ca-certificates.crt ]] || missing+=(ca-certificates)
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
    java_is_recent || die "Java 17 or newer is needed, found: $(javac -version 2>&1)"
    install_python_clients
    install_packages $programs
}

has_python_clients() { "$1" -c 'import requests, httpx, h2' 2>/dev/null; }

install_python_clients() {
    python=python3
    if has_python_clients "$python"; then return; fi
    python=$tools/venv/bin/python
    if has_python_clients "$python"; then return; fi
    say "installing Python requests and httpx into a virtual environment"
    rm -rf "$tools/venv"
    if ! python3 -m venv "$tools/venv" >"$scratch/venv.log" 2>&1; then
        apt_install python3-venv
        rm -rf "$tools/venv"
        python3 -m venv "$tools/venv"
    fi
    "$python" -m pip install --quiet requests 'httpx[http2]' >"$scratch/pip.log" 2>&1 ||
        cannot_install "requests and httpx" "$scratch/pip.log"
}

# Prints where the Node packages of a directory's package.json are installed.
packages_of() { printf '%s' "$tools/packages/$1"; } # DIRECTORY

# Installs the packages of its lock file unless they are installed already.
install_packages() { # DIRECTORY
    local packages
    packages=$(packages_of "$1")
    if cmp --silent "$1/package-lock.json" "$packages/installed"; then return; fi
    have npm || apt_install npm
    say "installing the Node packages of $1"
    rm -rf "$packages"
    mkdir -p "$packages"
    cp "$1/package.json" "$1/package-lock.json" "$packages"
    npm ci --loglevel=error --no-audit --no-fund --prefix "$packages" >"$scratch/npm.log" 2>&1 ||
        cannot_install "the Node packages of $1" "$scratch/npm.log"
    cp "$1/package-lock.json" "$packages/installed"
}

package_version() { # DIRECTORY PACKAGE
    node -p 'require(process.argv[1]).version' "$(packages_of "$1")/node_modules/$2/package.json"
}

show_versions() {
    say "curl $(curl --version | awk 'NR == 1 { print $2 }')," \
        "wget $(wget --version | awk 'NR == 1 { print $3 }')," \
        "requests $("$python" -c 'import requests; print(requests.__version__)')," \
        "httpx $("$python" -c 'import httpx; print(httpx.__version__)')," \
        "Python $("$python" -c 'import platform; print(platform.python_version())')," \
        "Node $(node --version | tr -d v) with undici $(package_version $programs undici)," \
        "Java $(javac -version 2>&1 | awk '{ print $2 }')," \
        "git $(git --version | awk '{ print $3 }')"
}

# Unsets variables of the calling shell that installation and build may use but that would change how bearerd and
# the clients behave.
reset_environment() {
    unset http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY
    unset SSL_CERT_FILE SSL_CERT_DIR CURL_CA_BUNDLE REQUESTS_CA_BUNDLE GIT_SSL_CAINFO WGETRC
    unset NODE_OPTIONS NODE_USE_ENV_PROXY NODE_EXTRA_CA_CERTS JAVA_TOOL_OPTIONS
    unset BEARERD_CONFIG RUST_LOG STATE_DIRECTORY CREDENTIALS_DIRECTORY
}

# ---- the servers -----------------------------------------------------------------------------------

# Builds bearerd and further targets that the arguments name.
build() { # [CARGO_ARGUMENTS…]
    say "building bearerd (profile $profile)"
    cargo build --locked --profile "$profile" --package bearerd --bin bearerd "$@"
    local directory=$profile
    [[ $profile = dev ]] && directory=debug
    built=$(realpath "$target/$directory")
    bearerd=$built/bearerd
}

# Creates a bare repository for a plain web server: the dumb protocol, one request per object.
make_repository() {
    local work=$scratch/work number
    mkdir "$scratch/files"
    export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0
    git init --quiet --initial-branch=main "$work"
    for number in 1 2 3; do
        head -c 100000 /dev/urandom | base64 >"$work/file-$number"
        git -C "$work" add .
        git -C "$work" -c user.name=tests -c user.email=tests@example.com \
            commit --quiet --message "Change $number"
    done
    git clone --quiet --bare "$work" "$scratch/files/project.git"
    git -C "$scratch/files/project.git" update-server-info
    head_commit=$(git -C "$work" rev-parse HEAD)
}

# Waits until the command succeeds, at most the given number of tenths of a second.
await() {
    local tenths=$1
    shift
    until "$@"; do
        ((tenths-- > 0)) || return 1
        sleep 0.1
    done
}

field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$@"; }

start_servers() { # COMMAND…
    mkfifo "$scratch/input"
    "$@" --lifetime "$lifetime" --files "$scratch/files" --out "$scratch/servers" \
        <"$scratch/input" >"$scratch/servers.log" 2>&1 &
    exec 9>"$scratch/input" # stays open until this script ends; then the servers exit
    await 100 grep -qs '^ready' "$scratch/servers.log" || {
        cat "$scratch/servers.log" >&2
        die "the servers did not start"
    }
    local described=$scratch/servers/servers.json
    origin=$(field "$described" https_authority)
    control=$(field "$described" control_url)
    client_secret=$(field "$described" client_secret)
}

# Prints free ports below the range of ephemeral ports.
free_ports() {
    python3 - <<'PYTHON'
import random, socket
free = []
while len(free) < 2:
    listener = socket.socket()
    try:
        listener.bind(("127.0.0.1", random.randrange(20000, 30000)))
    except OSError:
        continue
    free.append(listener)
print(*(listener.getsockname()[1] for listener in free))
PYTHON
}

configure() {
    local described=$scratch/servers/servers.json admin_port
    read -r proxy_port admin_port < <(free_ports)
    proxy=http://127.0.0.1:$proxy_port
    admin=http://127.0.0.1:$admin_port
    (
        umask 077
        printf '%s\n' "$client_secret" >"$scratch/client_secret"
        field "$described" refresh_token >"$scratch/refresh_token"
    )
    cat >"$scratch/proxy.toml" <<TOML
[proxy]
listen = "127.0.0.1:$proxy_port"

[credential.api]
hosts         = ["$origin"]
token_url     = "$(field "$described" token_url)"
client_id     = "$(field "$described" client_id)"
client_secret = { file = "client_secret" }
refresh_token = { file = "refresh_token" }
${credential_lines-}

[store]
url = "file:state"

[ca]
dir = "certs"

[tls]
extra_roots = ["servers/ca.pem"${extra_roots:+, $extra_roots}]

[admin]
listen = "127.0.0.1:$admin_port"
TOML
}

is_ready() {
    kill -0 "$bearerd_pid" 2>/dev/null || die "bearerd ended: $(tail -n 20 "$scratch/bearerd.log")"
    curl --silent --fail --output /dev/null --noproxy '*' --max-time 2 "$admin/readyz"
}

start_bearerd() {
    configure
    say "starting bearerd; tokens live $lifetime s"
    "$bearerd" run --config "$scratch/proxy.toml" --log-level debug >"$scratch/bearerd.log" 2>&1 9>&- &
    bearerd_pid=$!
    await 150 is_ready || die "bearerd is not ready: $(tail -n 20 "$scratch/bearerd.log")"
    "$bearerd" ca export --config "$scratch/proxy.toml" >"$scratch/ca.pem"
    keytool -importcert -noprompt -alias bearerd -file "$scratch/ca.pem" -storetype PKCS12 \
        -keystore "$scratch/trust.p12" -storepass changeit >"$scratch/keytool.log" 2>&1
}

# ---- running the clients ----------------------------------------------------------------------------

# Sends one request, a GET or, with a body, a POST, and prints the body of the response.
fetch_with_curl() { # URL [BODY]
    local answer post=()
    if (($# > 1)); then post=(--header 'Content-Type: application/json' --data "$2"); fi
    answer=$(curl --disable --silent --show-error --max-time 20 --write-out '\n%{http_code}' \
        "${post[@]}" "$1") || return
    [[ ${answer##*$'\n'} = 200 ]] || { say "status ${answer##*$'\n'}"; return 1; }
    printf '%s' "${answer%$'\n'*}"
}

fetch_with_wget() { # URL [BODY]
    local post=()
    if (($# > 1)); then post=(--header='Content-Type: application/json' --post-data="$2"); fi
    # Fails for any status except success; a second try would hide a failure.
    wget --no-config --no-hsts --no-verbose --output-document=- --tries=1 --timeout=20 \
        --ca-certificate="$scratch/ca.pem" "${post[@]}" "$1"
}

# Succeeds if the API's description is of this request, with a token.
describes() { [[ $1 = '{'*'"authorization":true'* && $1 = *"\"target\":\"$2\""* ]]; }

run_command_line_client() { # CLIENT
    local name=$1 number=0 scheme url body answer
    local -A requests=([http]=0 [https]=0) failures=([http]=0 [https]=0)
    local end=$((SECONDS + seconds))
    while ((SECONDS < end)); do
        ((++number))
        for scheme in http https; do
            url=$scheme://$origin
            ((++requests[$scheme]))
            answer=$("fetch_with_$name" "$url/hello?n=$number") || answer="failed: $answer"
            if ! describes "$answer" "/hello?n=$number"; then
                ((++failures[$scheme]))
                say "$scheme GET /hello?n=$number: $answer" >&2
            fi
            body="{\"client\":\"$name\",\"number\":$number}"
            ((++requests[$scheme]))
            answer=$("fetch_with_$name" "$url/echo" "$body") || answer="failed: $answer"
            if [[ $answer != "$body" ]]; then
                ((++failures[$scheme]))
                say "$scheme POST /echo: $answer" >&2
            fi
        done
    done
    for scheme in http https; do say "$name $scheme ${requests[$scheme]} ${failures[$scheme]}"; done
}

clone() { # SCHEME DIRECTORY
    git -c http.proxy="$proxy" clone --quiet "$1://$origin/files/project.git" "$2" &&
        [[ $(git -C "$2" rev-parse HEAD) = "$head_commit" ]] &&
        git -C "$2" fsck --no-progress
}

run_git() {
    local number=0 scheme directory
    local -A clones=([http]=0 [https]=0) failures=([http]=0 [https]=0)
    local end=$((SECONDS + seconds))
    while ((SECONDS < end)); do
        ((++number))
        for scheme in http https; do
            directory=$scratch/clones/$scheme-$number
            ((++clones[$scheme]))
            if ! clone "$scheme" "$directory" >&2; then
                ((++failures[$scheme]))
                say "$scheme clone $number failed" >&2
            fi
            rm -rf "$directory"
        done
    done
    for scheme in http https; do say "git $scheme ${clones[$scheme]} ${failures[$scheme]}"; done
}

# Runs a client with the variables that its users set; only git and Java need the proxy in a setting of their own.
run_client() { # CLIENT
    local ca=$scratch/ca.pem
    export http_proxy=$proxy https_proxy=$proxy
    case $1 in
    curl) CURL_CA_BUNDLE=$ca run_command_line_client curl ;;
    wget) run_command_line_client wget ;;
    requests) REQUESTS_CA_BUNDLE=$ca "$python" $programs/client.py requests "$origin" "$seconds" ;;
    httpx | urllib) SSL_CERT_FILE=$ca "$python" $programs/client.py "$1" "$origin" "$seconds" ;;
    node-*)
        NODE_EXTRA_CA_CERTS=$ca NODE_USE_ENV_PROXY=1 NODE_NO_WARNINGS=1 \
            PACKAGES=$(packages_of $programs) node $programs/client.mjs "$1" "$origin" "$seconds"
        ;;
    java)
        java -Djavax.net.ssl.trustStore="$scratch/trust.p12" \
            -Djavax.net.ssl.trustStorePassword=changeit \
            -cp "$scratch/classes" Client 127.0.0.1 "$proxy_port" "$origin" "$seconds"
        ;;
    git)
        unset http_proxy https_proxy
        GIT_SSL_CAINFO=$ca run_git
        ;;
    esac
}

start_clients() {
    local client
    say "running ${clients[*]} over http and https for $seconds s"
    javac -d "$scratch/classes" $programs/Client.java
    mkdir -p "$scratch/results" "$scratch/clones"
    client_pids=()
    for client in "${clients[@]}"; do
        (
            trap - EXIT
            run_client "$client"
        ) >"$scratch/results/$client" 2>"$scratch/results/$client.failures" 9>&- &
        client_pids+=($!)
    done
}

statistics() { curl --silent --fail --noproxy '*' --max-time 5 "$control/stats"; }

# Starts bearerd and all clients and waits until the clients are done.
run_clients() {
    start_bearerd
    start_clients
    python3 $programs/revoke.py "$control" >"$scratch/revocations.log" 2>&1 9>&- &
    local revoking=$! pid
    for pid in "${client_pids[@]}"; do wait "$pid" || true; done
    { kill -- "-$revoking" && wait "$revoking"; } 2>/dev/null || true
}

# ---- results ----------------------------------------------------------------------------------------

passed=0
failed=0

verdict() { # ok|no TEXT…
    local outcome=$1
    shift
    if [[ $outcome = ok ]]; then
        ((++passed))
        say "ok      $*"
    else
        ((++failed))
        say "FAILED  $*"
    fi
}

# Prints ok if the arithmetic condition is true, no otherwise.
holds() { if (($1)); then echo ok; else echo no; fi; }

# Prints the first failures, including lines without a scheme. wget also logs successes, which are left out.
show_failures() { # CLIENT SCHEME
    grep -E "^($2 |[^h])" "$scratch/results/$1.failures" | grep -v ' URL:' | head -n 4 |
        cut -c 1-300 | sed 's/^/            /' || true
}

report_clients() {
    local client scheme requests failures
    printf '\n        %-10s %-6s %10s %10s\n' client scheme requests failures
    for client in "${clients[@]}"; do
        for scheme in http https; do
            requests=0 failures=unknown
            read -r requests failures < <(sed -n "s/^$client $scheme //p" "$scratch/results/$client") || true
            if [[ $failures = 0 ]] && ((requests > 0)); then
                verdict ok "$(printf '%-10s %-6s %10s %10s' "$client" "$scheme" "$requests" "$failures")"
            else
                verdict no "$(printf '%-10s %-6s %10s %10s' "$client" "$scheme" "$requests" "$failures")"
                show_failures "$client" "$scheme"
            fi
        done
    done
    say "        (git: each is a clone, many requests)"
}

# Checks that the log contains neither the client secret nor the further patterns for grep.
report_secrets() { # GREP_ARGUMENTS…
    local found
    found=$(grep -c -e "$client_secret" "$@" "$scratch/bearerd.log") || true
    verdict "$(holds "found == 0")" \
        "$found of $(wc -l <"$scratch/bearerd.log") lines of the log (debug) hold a secret"
}

has_ended() { ! kill -0 "$bearerd_pid" 2>/dev/null; }

report_end() {
    local status=0
    kill -TERM "$bearerd_pid" 2>/dev/null || true
    if await 100 has_ended; then
        wait "$bearerd_pid" || status=$?
        verdict "$(holds "status == 0")" "bearerd ended with status $status after SIGTERM"
    else
        kill -KILL "$bearerd_pid" 2>/dev/null || true
        verdict no "bearerd did not end within 10 s of SIGTERM"
    fi
}

# Prints the last line and returns the status of the script.
conclude() {
    if ((failed)); then
        say
        say "the last revocations of access tokens:"
        tail -n 5 "$scratch/revocations.log" || true
        say "the last warnings of bearerd's log:"
        grep -E 'WARN|ERROR' "$scratch/bearerd.log" | tail -n 10 | cut -c 1-400 || true
    fi
    say "$passed passed, $failed failed"
    ((failed == 0))
}
