# Follows from src/options/flags.rs, by `make completions`.
_announced() {
	local cur=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD - 1]}
	# `--flag=value` is three words.
	[ "$cur" != = ] || cur=
	[ "$flag" != = ] || flag=${COMP_WORDS[COMP_CWORD - 2]}
	COMPREPLY=()
	case $flag in
	-f | --config) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	-i | --address) : ;;
	-p | --tcp-port) : ;;
	-P | --udp-port) : ;;
	-u | --user) mapfile -t COMPREPLY < <(compgen -u -- "$cur") ;;
	-d | --root) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
	-r | --redirect) : ;;
	-A | --admin) : ;;
	--admin-listen) : ;;
	--stats-path) : ;;
	-w | --whitelist) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	-b | --blacklist) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	--list-add) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	--list-remove) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	--refusal-interval) : ;;
	--refuse-udp) mapfile -t COMPREPLY < <(compgen -W 'error empty' -- "$cur") ;;
	--full-scrape) mapfile -t COMPREPLY < <(compgen -W 'off admin modest open' -- "$cur") ;;
	--interval) : ;;
	--interval-max) : ;;
	--target-rate) : ;;
	--peer-timeout) : ;;
	--numwant-max) : ;;
	--decoys) : ;;
	--memory) : ;;
	--max-peers) : ;;
	--max-torrents) : ;;
	--max-per-host) : ;;
	--max-connections) : ;;
	--receive-buffer) : ;;
	-j | --threads) : ;;
	--state) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	--state-interval) : ;;
	-l | --load-dump) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	--cluster-listen) : ;;
	--cluster-peer) : ;;
	--cluster-key) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	--make-key) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	-s | --sync-multicast) : ;;
	--sync-node) : ;;
	--map) : ;;
	--trust-ip) : ;;
	--proxy) : ;;
	--proxy-header) : ;;
	--pidfile) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	--health) : ;;
	*) mapfile -t COMPREPLY < <(compgen -W '-f --config -i --address -p --tcp-port -P --udp-port -u --user -d --root -r --redirect -A --admin --admin-listen --public-stats --stats-path -w --whitelist -b --blacklist --list-add --list-remove --refusal-interval --refuse-udp --full-scrape --interval --interval-max --target-rate --peer-timeout --numwant-max --decoys --memory --max-peers --max-torrents --max-per-host --max-connections --receive-buffer -j --threads --pin-threads --state --state-interval -l --load-dump --cluster-listen --cluster-peer --cluster-key --make-key -s --sync-multicast --sync-node --sync-mapped --map --trust-ip --proxy --proxy-header --proxy-protocol -v --verbose --syslog --daemon --pidfile --no-sandbox --log-completed -n --check --health -V --version -h --help' -- "$cur") ;;
	esac
}
complete -F _announced announced
