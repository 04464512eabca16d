<?php
// Prints much before it reads what it was sent.
for ($i = 0; $i < 192; $i++) {
    echo str_repeat('x', 65536);
}
$n = 0;
$in = fopen('php://input', 'r');
while (!feof($in)) {
    $n += strlen(fread($in, 65536));
}
echo $n;
