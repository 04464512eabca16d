<!DOCTYPE html>
<title><?= $title ?></title><link rel="stylesheet" href="style.css">
<nav><a href="index.php">Home</a> <a href="form.php">Form</a> <a href="counter.php">Counter</a> <a href="upload.php">Upload</a> <a href="info.php">Info</a></nav>
<h1><?= $title ?></h1>
