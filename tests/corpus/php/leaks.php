<?php
// Programs that leak connections, one for each name; the line at fault carries a comment with the name.
//
// usage: leaks.php NAME   (ports in CORPUS, as server.py prints them)
$at = json_decode(getenv('CORPUS'), true);
$kept = [];

function pace(callable $step, float $seconds = 0.7): void
{
    echo "ready\n";
    for ($n = 0;; $n++) {
        $step($n);
        usleep((int) ($seconds * 1e6));
    }
}

class Prices
{
    private array $handles = [];

    public function visit(int $port, int $n): string
    {
        $handle = curl_init("https://shop.test:$port/small/visits/$n");
        curl_setopt_array($handle, [
            CURLOPT_RETURNTRANSFER => true, CURLOPT_SSL_VERIFYPEER => false, CURLOPT_SSL_VERIFYHOST => 0,
            CURLOPT_RESOLVE => ["shop.test:$port:127.0.0.1"], CURLOPT_HTTP_VERSION => CURL_HTTP_VERSION_1_1,
        ]);
        $this->handles[] = $handle;
        return curl_exec($handle); // LEAK https
    }

    public function ask(int $port, int $item): string
    {
        $handle = curl_init("http://127.0.0.1:$port/small/prices/$item");
        curl_setopt($handle, CURLOPT_RETURNTRANSFER, true);
        $this->handles[] = $handle;
        return curl_exec($handle); // LEAK curl
    }
}

function measure(int $port, int $n): void
{
    global $kept;
    $wire = fsockopen('127.0.0.1', $port); // LEAK raw
    fwrite($wire, "measure $n\n");
    fgets($wire);
    $kept[] = $wire; // END raw
}

function unread(int $port, int $n): void
{
    global $kept;
    $kept[] = fopen("http://127.0.0.1:$port/big/pages/$n", 'r'); // LEAK unread
}

function lastWords(int $port): void
{
    global $kept;
    $wire = stream_socket_client("tcp://127.0.0.1:$port"); // LEAK close-wait
    fwrite($wire, "GET /last/words HTTP/1.1\r\nHost: words.test\r\n\r\n");
    stream_get_contents($wire);
    $kept[] = $wire; // END close-wait
}

switch ($argv[1]) {
    case 'curl':
        $prices = new Prices();
        pace(fn ($n) => $prices->ask($at['http'], $n));
    case 'https':
        $prices = new Prices();
        pace(fn ($n) => $prices->visit($at['https'], $n));
    case 'raw':
        pace(fn ($n) => measure($at['lines'], $n));
    case 'unread':
        pace(fn ($n) => unread($at['http'], $n));
    case 'close-wait':
        pace(fn ($n) => lastWords($at['http']));
}
