<?php $title = "Upload"; require "head.php"; ?>
<?php if (isset($_FILES['file'])): ?>
<p id="size"><?= htmlspecialchars($_FILES['file']['name']) ?>: <?= $_FILES['file']['size'] ?> bytes</p>
<?php else: ?>
<form method="post" enctype="multipart/form-data"><input type="file" name="file"><button>Send</button></form>
<?php endif ?>
