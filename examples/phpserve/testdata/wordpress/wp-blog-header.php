<?php
[$path] = explode('?', $_SERVER['REQUEST_URI']);
?>
<!DOCTYPE html>
<title>Blog</title>
<h1>Post: <?= htmlspecialchars(trim($path, '/')) ?></h1>
<p>Query: <?= htmlspecialchars($_SERVER['QUERY_STRING']) ?></p>
<p><a href="/blog/relative">Relative</a></p>
