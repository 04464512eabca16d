<?php
for ($i = 0; $i < 3; $i++) {
    echo "step $i\n";
    flush();
    usleep(100000);
}
