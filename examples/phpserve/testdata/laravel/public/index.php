<?php
$path = require __DIR__ . '/../bootstrap/app.php';
?>
<!DOCTYPE html>
<title>Application</title>
<h1>Route: <?= htmlspecialchars(trim($path, '/')) ?></h1>
<p>Query: <?= htmlspecialchars($_SERVER['QUERY_STRING']) ?></p>
<p><a href="/users/relative">Relative</a></p>
