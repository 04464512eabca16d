<?php $title = "Form"; require "head.php"; ?>
<?php if (isset($_POST['name'])): ?>
<p id="greeting">Hello, <?= htmlspecialchars($_POST['name']) ?>!</p>
<?php else: ?>
<form method="post"><input name="name" id="name"><button>Send</button></form>
<?php endif ?>
