<?php $title = "Home"; require "head.php"; ?>
<p>This page is made by PHP <?= PHP_VERSION ?>.</p>
