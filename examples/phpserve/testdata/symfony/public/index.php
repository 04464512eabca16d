<?php
// The base path is found out as the framework does: the script's name, or its
// directory, if the request's path begins with it.
$uri = $_SERVER['REQUEST_URI'];
$base = $_SERVER['SCRIPT_NAME'];
if (strncmp($uri, $base, strlen($base)) !== 0) {
    $base = rtrim(dirname($base), '/');
}
[$path] = explode('?', substr($uri, strlen($base)));
?>
<!DOCTYPE html>
<title>Application</title>
<h1>Path: <?= htmlspecialchars($path) ?></h1>
<p>Query: <?= htmlspecialchars($_SERVER['QUERY_STRING']) ?></p>
<p><a href="<?= $base ?>/relative">Relative</a></p>
