<?php
echo $_FILES['file']['size'], ' ', hash_file('sha256', $_FILES['file']['tmp_name']), ' ', $_POST['word'];
