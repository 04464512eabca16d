<?php
echo 'The dashboard, of ', $_SERVER['SCRIPT_NAME'];
