<?php
echo 'answered';
fastcgi_finish_request();
usleep(300000);
