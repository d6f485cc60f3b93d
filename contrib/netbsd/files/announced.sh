#!@RCD_SCRIPTS_SHELL@
#
# For /etc/rc.conf: announced=YES, and announced_flags, by default "-u _announced". `reload` reloads lists and configuration.
#
# rc.d(8) does not restart the tracker after a crash.

# PROVIDE: announced
# REQUIRE: DAEMON NETWORKING syslogd
# KEYWORD: shutdown

. /etc/rc.subr

name=announced
rcvar=$name
command=@PREFIX@/sbin/announced
pidfile=@VARBASE@/run/announced.pid
required_files=@PKG_SYSCONFDIR@/announced.conf
command_args="--daemon --pidfile $pidfile -f $required_files"
extra_commands="reload configtest"
configtest_cmd=announced_check
start_precmd=announced_check
restart_precmd=announced_check
reload_precmd=announced_check

announced_check()
{
	$command -n $announced_flags -f $required_files >/dev/null
}

load_rc_config $name
: ${announced_flags:="-u _announced"}
run_rc_command "$1"
