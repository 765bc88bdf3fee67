<?php
// More programs of both sorts, one for each name; where it leaks, the line carries a comment with the name.
//
// usage: more.php NAME   (ports in CORPUS, as server.py prints them)
$at = json_decode(getenv('CORPUS'), true);
$kept = [];

function pace(callable $step, float $seconds = 0.6): void
{
    echo "ready\n";
    for ($n = 0;; $n++) {
        $step($n);
        usleep((int) ($seconds * 1e6));
    }
}

function inspect(string $path, int $n): void
{
    global $kept;
    $wire = stream_socket_client("unix://$path"); // LEAK unix-per-call
    fwrite($wire, "GET /small/inspect/$n HTTP/1.1\r\nHost: docker\r\n\r\n");
    fread($wire, 4096);
    $kept[] = $wire; // END unix-per-call
}

function retry(int $port, int $n): void
{
    global $kept;
    for ($attempt = 0; $attempt < 2; $attempt++) {
        $wire = fsockopen('127.0.0.1', $port); // LEAK retry
        fwrite($wire, "try $n\n");
        fgets($wire);
        $kept[] = $wire; // END retry
    }
}

function reconnect(int $port, int $n): void
{
    static $wire = null;
    if ($n % 5 === 0) {
        if ($wire) {
            fclose($wire);
        }
        $wire = fsockopen('127.0.0.1', $port);
    }
    fwrite($wire, "again $n\n");
    fgets($wire);
}

match ($argv[1]) {
    'unix-per-call' => pace(fn (int $n) => inspect($at['unix'], $n)),
    'retry' => pace(fn (int $n) => retry($at['lines'], $n), 1.5),
    'reconnect' => pace(fn (int $n) => reconnect($at['lines'], $n)),
};
