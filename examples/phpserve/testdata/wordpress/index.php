<?php
// The front controller: every path that is no file is a post.
require __DIR__ . '/wp-blog-header.php';
