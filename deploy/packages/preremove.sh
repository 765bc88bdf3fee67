#!/bin/sh
# deb says `remove`, rpm 0; an upgrade (`upgrade`, 1) lets the daemon run until it is replaced.
set -e
case "$1" in
remove | 0)
    if [ -d /run/systemd/system ]; then
        systemctl disable --now tracer.service
    fi
    ;;
esac
