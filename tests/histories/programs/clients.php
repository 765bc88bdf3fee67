<?php
// Clients that are recorded for an hour: they sleep nearly all the time.
//
// usage: clients.php WHAT HTTP_PORT LINES_PORT
[, $what, $http, $lines] = $argv;

function dial(string $port)
{
    $socket = stream_socket_client("tcp://127.0.0.1:$port");
    fwrite($socket, "hello\n");
    fgets($socket);
    return $socket;
}

// One every three minutes is put on a list, and stays there.
function one_every_three_minutes(string $lines): void
{
    $kept = [];
    while (true) {
        $kept[] = dial($lines);
        sleep(180);
    }
}

// Seven, opened one after the other in the first seven minutes, and used every two from then on.
function fills_and_stays(string $lines): void
{
    $pool = [];
    while (true) {
        if (count($pool) < 7) {
            $pool[] = dial($lines);
        }
        sleep(60);
        foreach ($pool as $number => $socket) {
            if (time() / 60 % 2 == $number % 2) {
                fwrite($socket, "again\n");
                fgets($socket);
            }
        }
    }
}

$what($lines);
