#!/bin/sh
# Nobody is watched unasked: the daemon is enabled by who installs it. One that runs already is replaced,
# and what it had is kept in its pins.
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart tracer.service
fi
