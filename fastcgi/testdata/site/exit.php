<?php
http_response_code(418);
echo 'short';
exit(3);
