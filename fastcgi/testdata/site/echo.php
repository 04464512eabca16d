<?php
// What a request was, as PHP has understood it.
header('Content-Type: application/json');
setcookie('seen', 'yes');
echo json_encode([
    'get' => $_GET, 'post' => $_POST, 'cookie' => $_COOKIE,
    'server' => array_filter($_SERVER, 'is_scalar'),
    'length' => strlen(file_get_contents('php://input')),
], JSON_INVALID_UTF8_SUBSTITUTE);
