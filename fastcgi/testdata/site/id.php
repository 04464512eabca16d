<?php
// The answer is the request's own, so that nobody takes it for theirs.
$id = $_GET['id'] ?? '';
header("X-Id: $id");
echo str_repeat("$id\n", (int)($_GET['lines'] ?? 1));
