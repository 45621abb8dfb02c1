# Owns one private PostgreSQL server, from its birth to its removal.
#
#   sh watchdog.sh BINARIES DIRECTORY [durable]
#
# Each line of standard input is a port to try, "crash" or "stop"; the answer to each
# is a line "up" or "down". A durable one keeps what was committed in a crash. Standard input ends when the owner closes it or dies, in
# whatever way: then the server is stopped and its directory removed.
bin=$1 dir=$2 durable=${3-}

# Only the end of standard input ends this script. PIPE matters too: the owner
# may die before it reads our answer.
trap '' HUP INT TERM PIPE

# The owner's standard error must not stay open for as long as we live.
exec 2>>"$dir/log"

"$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync </dev/null >&2
cat >>"$dir/data/postgresql.conf" <<END
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
deadlock_timeout = 100ms
END
[ "$durable" ] || cat >>"$dir/data/postgresql.conf" <<END
fsync = off
synchronous_commit = off
full_page_writes = off
END

ctl() {
    "$bin/pg_ctl" -D "$dir/data" -w "$@" </dev/null >&2
}

while read -r port; do
    if [ "$port" = crash ]; then
        ctl -m immediate stop
        echo down
    elif [ "$port" = stop ]; then
        ctl -m fast stop
        echo down
    elif ctl -l "$dir/log" -o "-p $port" start; then
        echo up
    else
        echo down
    fi
done

# An owner that was killed may have left the processes stopped. They listen to no other signal then.
read -r server _ <"$dir/data/postmaster.pid" && for process in /proc/[0-9]*; do
    read -r stat <"$process/stat" && set -- ${stat##*)}
    case $server in "$2" | "${process#/proc/}") kill -CONT "${process#/proc/}" ;; esac
done

ctl -m fast -t 10 stop || ctl -m immediate stop
rm -rf "$dir"
