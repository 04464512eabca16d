<?php
session_start();
$_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
$title = "Counter";
require "head.php";
?>
<p id="count"><?= $_SESSION['count'] ?></p><p><a href="counter.php">Again</a></p>
