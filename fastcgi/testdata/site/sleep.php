<?php
echo 'a little';
flush();
sleep((int)($_GET['seconds'] ?? 10));
echo ' more';
