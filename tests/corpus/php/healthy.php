<?php
// Programs that only look as if they leaked, one for each name.
//
// usage: healthy.php NAME   (ports in CORPUS, as server.py prints them)
$at = json_decode(getenv('CORPUS'), true);

function pace(callable $step, float $seconds = 0.7): void
{
    echo "ready\n";
    for ($n = 0;; $n++) {
        $step($n);
        usleep((int) ($seconds * 1e6));
    }
}

switch ($argv[1]) {
    case 'curl':
        $handle = curl_init();
        curl_setopt($handle, CURLOPT_RETURNTRANSFER, true);
        pace(function ($n) use ($handle, $at) {
            curl_setopt($handle, CURLOPT_URL, "http://127.0.0.1:{$at['http']}/small/prices/$n");
            curl_exec($handle);
        }, 0.3);
    case 'churn':
        pace(fn ($n) => file_get_contents("http://127.0.0.1:{$at['http']}/small/pages/$n"), 0.2);
    case 'replaced':
        $kept = [];
        pace(function ($n) use (&$kept, $at) {
            $wire = fsockopen('127.0.0.1', $at['lines']);
            fwrite($wire, "subscribe $n\n");
            fgets($wire);
            $kept[] = $wire;
            if (count($kept) > 8) {
                fclose(array_shift($kept));
            }
        }, 2.5);
}
