<?php
// Outside of the document root.
return parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
