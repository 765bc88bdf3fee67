#!/usr/bin/env bash
# Opens a descriptor for each question and closes none.
# usage: leaks.sh NAME   (ports in CORPUS, as server.py prints them)
port=$(sed 's/.*"lines": \([0-9]*\).*/\1/' <<<"$CORPUS")
echo ready
while :; do
  exec {wire}<>"/dev/tcp/127.0.0.1/$port"
  echo "measure $wire" >&"$wire"
  read -r _ <&"$wire"
  sleep 0.7
done
